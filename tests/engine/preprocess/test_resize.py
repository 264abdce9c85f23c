"""Both models' inputs compared with open_clip's, SAM2's and torchvision's transforms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import image_transform
from PIL import Image
from sam2.utils.transforms import SAM2Transforms
from torchvision.transforms import Compose, ToTensor  # type: ignore[import-untyped]

from medfocus.engine.preprocess.resize import classifier_pixels, normalise, segmenter_pixels
from medfocus.errors import ImageError
from medfocus.settings import Interpolation, ResizeMode
from tests.errors import refuses

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def from_open_clip(
    image: np.ndarray, size: int, mode: ResizeMode, interpolation: Interpolation
) -> np.ndarray:
    steps = image_transform(
        size, is_train=False, resize_mode=mode, interpolation=interpolation
    ).transforms
    names = [type(step).__name__ for step in steps]
    before_tensor = Compose(steps[: names.index("MaybeToTensor")])
    return np.asarray(before_tensor(Image.fromarray(image)))


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    size=st.integers(1, 240),
    mode=st.sampled_from(["shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
)
@settings(deadline=None)
def test_classifier_pixels_equal_open_clips(
    height: int, width: int, size: int, mode: ResizeMode, interpolation: Interpolation
) -> None:
    image = noise(height, width, seed=height)
    pixels = classifier_pixels(image, size, mode, interpolation)
    assert pixels.shape == (size, size, 3)
    assert pixels.dtype == np.uint8
    if mode == "longest" and round(min(height, width) * size / max(height, width)) == 0:
        return  # open_clip fails; one pixel is kept
    np.testing.assert_array_equal(pixels, from_open_clip(image, size, mode, interpolation))


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("sides", [(1024, 683), (333, 1000), (224, 224), (223, 225), (31, 47)])
def test_classifier_pixels_at_clip_size(sides: tuple[int, int], mode: ResizeMode) -> None:
    image = noise(*sides)
    expected = from_open_clip(image, 224, mode, "bicubic")
    np.testing.assert_array_equal(classifier_pixels(image, 224, mode), expected)


def test_padding_is_black() -> None:
    white = np.full((10, 40, 3), 255, np.uint8)
    pixels = classifier_pixels(white, 40, "longest")
    assert (pixels[15:25] == 255).all()
    assert not pixels[:15].any()
    assert not pixels[25:].any()


def test_a_very_thin_image_is_refused_before_it_is_resized() -> None:
    with refuses(ImageError, "image.too_large", "image"):
        classifier_pixels(np.zeros((1, 20_000, 3), np.uint8), 224, "shortest")


@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    size=st.sampled_from([16, 64, 256]),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=50)
def test_segmenter_pixels_are_within_one_grey_level_of_sam2s(
    height: int, width: int, size: int, seed: int
) -> None:
    image = noise(height, width, seed)
    pixels = segmenter_pixels(image, size)
    assert pixels.shape == (size, size, 3)
    transforms = SAM2Transforms(resolution=size, mask_threshold=0.0)
    mean, std = (torch.tensor(v)[:, None, None] for v in (transforms.mean, transforms.std))
    reference = (transforms(image) * std + mean).permute(1, 2, 0).numpy() * 255
    # Two roundings to 8 bits, one per pass, reach exactly 1.0 at ties; the rest is the float32 of
    # the reference and the fixed-point weights of pillow.
    assert np.abs(pixels - reference).max() <= 1 + 1e-3


def test_segmenter_pixels_at_sam2s_own_size() -> None:
    image = noise(700, 1300)
    reference = SAM2Transforms(resolution=1024, mask_threshold=0.0)(image)
    normalised = normalise(
        segmenter_pixels(image, 1024)[None], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    one_level = (1 + 1e-3) / (255 * 0.224)
    assert np.abs(normalised[0] - reference.numpy()).max() <= one_level


def test_normalise_is_bitwise_equal_to_torchvisions() -> None:
    batch = np.stack([noise(64, 64, seed) for seed in range(3)])
    batch[0].reshape(-1)[:768] = np.arange(768) % 256
    normalised = normalise(batch, MEAN, STD)
    assert normalised.dtype == np.float32
    assert normalised.flags.c_contiguous
    to_tensor = ToTensor()
    normalize = image_transform(64, is_train=False, mean=MEAN, std=STD).transforms[-1]
    expected = torch.stack([normalize(to_tensor(image)) for image in batch])
    np.testing.assert_array_equal(normalised, expected.numpy())


def scene(height: int, width: int) -> np.ndarray:
    """A smooth round blob in a field of 240 × 180, sampled by height × width pixels."""
    y = (np.arange(height) + 0.5) * 240 / height - 110
    x = (np.arange(width) + 0.5) * 180 / width - 100
    level = 230 * np.exp(-(y[:, None] ** 2 + x**2) / (2 * 25**2)) + 10
    return np.rint(level).astype(np.uint8)[..., None].repeat(3, axis=2)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("stored", [(240, 60), (80, 180), (120, 60), (240, 180)])
def test_what_is_round_stays_round(stored: tuple[int, int], mode: ResizeMode) -> None:
    aspect = (240 / stored[0]) / (180 / stored[1])
    found = classifier_pixels(scene(*stored), 112, mode, pixel_aspect=aspect)
    expected = from_open_clip(scene(240, 180), 112, mode, "bicubic")
    assert np.abs(found.astype(int) - expected).max() <= 4


def test_a_large_image_is_resized_to_the_same_pixels() -> None:
    image = noise(2900, 2900)  # more than is resized in one step
    expected = from_open_clip(image, 64, "squash", "bicubic")
    np.testing.assert_array_equal(classifier_pixels(image, 64, "squash"), expected)
