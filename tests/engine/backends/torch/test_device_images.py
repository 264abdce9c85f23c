"""A batch's images, uploaded and resized on the device, against pillow and the host's buffers."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from medfocus.engine.backends.torch.device_images import DeviceImages
from medfocus.engine.backends.torch.host_device_buffer import HostDeviceBuffer
from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import classifier_view
from medfocus.engine.preprocess.resize import normalise, segmenter_pixels
from medfocus.errors import ImageError
from medfocus.kernels import dispatch
from medfocus.models.presets import CLIP_MEAN, CLIP_STD, SAM2_MEAN, SAM2_STD
from medfocus.settings import (
    ClassifierInput,
    Preprocessing,
    ResizeMode,
    SegmenterInput,
)
from tests.errors import refuses

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PREPROCESSING = Preprocessing(
    SegmenterInput(64, SAM2_MEAN, SAM2_STD),
    ClassifierInput(56, 7, "shortest", "bicubic", CLIP_MEAN, CLIP_STD),
)
LARGE = (120, 110)  # more pixels than both models' inputs have


def noise(*sizes: tuple[int, int], seed: int = 0) -> list[SourceImage]:
    random = np.random.default_rng(seed)
    found = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    return [SourceImage(pixels, f"image {number}") for number, pixels in enumerate(found)]


def run(buffers: DeviceImages, images: Sequence[SourceImage]) -> None:
    buffers.begin(images)
    for row in reversed(range(len(images))):
        buffers.write(row)
    buffers.preprocess()


def check(buffers: DeviceImages, images: Sequence[SourceImage], using: Preprocessing) -> None:
    """Both models' inputs are bitwise equal to the host's."""
    first, second = using.segmenter, using.classifier
    for row, image in enumerate(images):
        for found, pixels, mean, std in (
            (buffers.segmenter, segmenter_pixels(image.pixels, first.size), first.mean, first.std),
            (buffers.classifier, classifier_view(image, using), second.mean, second.std),
        ):
            np.testing.assert_array_equal(found[row].cpu().numpy(), normalise(pixels, mean, std))


@pytest.mark.parametrize("mode", ["off", "require"])
@pytest.mark.parametrize("place", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])
def test_batches_of_all_sizes(place: str, mode: dispatch.Mode) -> None:
    """Sizes and pixel aspects that alternate, between them images that the host resizes."""
    if (place, mode) == ("cpu", "require") and torch.cuda.is_available():
        pytest.skip("a kernel runs on the CPU in the interpreter only")
    buffers = DeviceImages(PREPROCESSING, 8, place)
    one, other = (60, 80), (64, 64)
    for number, sizes in enumerate(
        [(other, one, LARGE, other, (1, 1), one, LARGE, (33, 57)), (one, other, one), (LARGE,)]
    ):
        images = noise(*sizes, seed=number)
        images[0] = replace(images[0], pixel_aspect=2.5)
        images[-1] = replace(images[-1], pixel_aspect=0.4)
        with dispatch.using(mode):
            run(buffers, images)
        assert dispatch.last_path("resize") == ("triton" if mode == "require" else "torch")
        check(buffers, images, PREPROCESSING)


def test_only_the_images_bytes_are_uploaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the weights of each size once."""
    buffers = DeviceImages(PREPROCESSING, 8, "cpu")
    up, copied = HostDeviceBuffer.up, dict[torch.dtype, list[int]]()

    def counting(self: HostDeviceBuffer, count: int) -> None:
        copied.setdefault(self.host.dtype, []).append(self.host[:count].numel())
        up(self, count)

    monkeypatch.setattr(HostDeviceBuffer, "up", counting)
    run(buffers, noise((40, 30), (64, 64)))
    run(buffers, noise((40, 30), (64, 64), (40, 30)))
    run(buffers, noise(LARGE))
    assert copied[torch.uint8] == [
        3 * (40 * 30 + 64 * 64),
        3 * (2 * 40 * 30 + 64 * 64),
        3 * (64 * 64 + 56 * 56),
    ]
    once, twice, _ = copied[torch.int32]
    assert once == twice > 0


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (1, 7000), (7000, 1), (5000, 1)])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_long_thin_images_fit_the_buffers(size: tuple[int, int], mode: ResizeMode) -> None:
    """Resized on the device or by the host, whose limit holds for both."""
    clip = replace(PREPROCESSING.classifier, resize_mode=mode)
    using = replace(PREPROCESSING, classifier=clip)
    buffers = DeviceImages(using, 2, "cpu")
    images = noise(size, (9, 9))
    buffers.begin(images)
    buffers.write(0)
    buffers.write(1)
    with dispatch.using("off"):
        buffers.preprocess()
    check(buffers, images, using)


def test_an_image_too_long_to_be_resized_is_refused() -> None:
    buffers = DeviceImages(PREPROCESSING, 2, "cpu")
    images = noise((60, 50), (1, 50_000))
    buffers.begin(images)
    with refuses(ImageError, "image.too_large", "image 1"):
        buffers.write(1)
    buffers.write(0)
    buffers.preprocess()
    check(buffers, images[:1], PREPROCESSING)
