"""PyTorch's buffers and preprocessing, on the CPU, beside pillow's and the host's buffers."""

from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from medfocus.engine.artifact import read_engine_directory
from medfocus.engine.backends.torch import TorchBackend
from medfocus.engine.backends.torch_preprocess import classifier_image, down_first, segmenter_image
from medfocus.engine.backends.torch_slot import TorchSlot
from medfocus.engine.geometry import resized_size
from medfocus.engine.images import SourceImage
from medfocus.engine.preprocess import classifier_pixels, segmenter_pixels
from medfocus.engine.prompts import own_prompt
from medfocus.engine.slot import HostSlot, Job, Slot
from medfocus.errors import ImageError
from medfocus.export.engine_directory import build
from medfocus.settings import ClassifierInput, Interpolation, ResizeMode
from tests.conftest import random_parts
from tests.engine.test_engine import pictures

GREY = (0.5, 0.5, 0.5)


@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    seed=st.integers(0, 99),
    edges=st.booleans(),
    mode=st.sampled_from(("shortest", "longest", "squash")),
    interpolation=st.sampled_from(("bicubic", "bilinear")),
)
def test_resizes_as_pillow_to_the_bit(
    size: tuple[int, int], seed: int, edges: bool, mode: ResizeMode, interpolation: Interpolation
) -> None:
    if int(PIL.__version__.split(".")[0]) < 13:  # which always goes across first
        for target in ((64, 64), resized_size(*size, 56, mode)):
            assume(not down_first(*size, *target))
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    if edges:
        pixels = (pixels > 127).astype(np.uint8) * 255
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].int()
    clip = ClassifierInput(56, 7, mode, interpolation, GREY, GREY)
    found = classifier_image(image, clip)[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, classifier_pixels(pixels, 56, mode, interpolation))
    found = segmenter_image(image, 64)[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, segmenter_pixels(pixels, 64))


def run(slot: Slot, jobs: list[Job]) -> None:
    slot.begin(jobs)
    for row in range(len(jobs)):
        slot.fill(row)
    slot.segment()
    slot.classify()


@pytest.mark.parametrize("mode", ["none", "overlay", "soft", "hard"])
def test_answers_as_the_hosts_buffers_do(tmp_path: Path, mode: str) -> None:
    """Images of several sizes in a batch, large ones resized by the host, and two batches."""
    build(tmp_path / "engine", random_parts(mode))  # type: ignore[arg-type]
    directory = read_engine_directory(tmp_path / "engine")
    manifest = directory.manifest
    backend = TorchBackend(directory, "cpu")
    ours, host = TorchSlot(backend, manifest, 8, "cpu"), HostSlot(backend, manifest, 8)
    large = np.asarray(Image.fromarray(pictures(1)[0]).resize((900, 700)))
    shown = [SourceImage(pixels, "image") for pixels in (*pictures(7), large)]
    prompt = own_prompt((10, 10, 40, 50), None, 64, 64, "image")
    for jobs in (
        [Job(image, manifest.prompts) for image in shown],
        [Job(shown[3], prompt), Job(shown[0], prompt)],
        [Job(image, manifest.prompts) for image in shown[2:5]],
    ):
        run(ours, jobs)
        run(host, jobs)
        for row in range(len(jobs)):
            found, expected = ours.answer(row), host.answer(row)
            assert found.focused == expected.focused
            np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
            np.testing.assert_allclose(found.focus_logits, expected.focus_logits, atol=1e-3)
            np.testing.assert_allclose(found.patch_focus, expected.patch_focus, atol=1e-4)
            assert found.score == pytest.approx(expected.score, abs=1e-5)
    assert ours.nbytes > 8 * 3 * 256**2 * 4


def test_long_thin_images_are_left_to_the_host(engine_directory: Path) -> None:
    directory = read_engine_directory(engine_directory)
    slot = TorchSlot(TorchBackend(directory, "cpu"), directory.manifest, 2, "cpu")
    shapes = ((3, 200), (2, 40_000))
    jobs = [
        Job(SourceImage(np.zeros((*shape, 3), np.uint8), "thin"), directory.manifest.prompts)
        for shape in shapes
    ]
    slot.begin(jobs)
    slot.fill(0)
    with pytest.raises(ImageError, match="would become 112 x 2240000"):
        slot.fill(1)
    assert slot._sizes == [None, None]
