"""Images of any sizes in one batch, compared with pillow bit by bit.

Without a GPU the kernel runs in Triton's interpreter.
"""

from collections.abc import Sequence

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from medfocus.engine.backends.torch.resize import (
    Frame,
    Taps,
    classifier_frame,
    passes,
    segmenter_frame,
)
from medfocus.engine.preprocess.resize import classifier_pixels, segmenter_pixels
from medfocus.errors import InputError
from medfocus.kernels import dispatch
from medfocus.kernels.resize import resize
from medfocus.settings import ClassifierInput, Interpolation, ResizeMode
from tests.errors import refuses

SIDE = 40  # of the models' inputs
GREY = (0.5, 0.5, 0.5)
# One pixel, one row, one column, both orders of the two passes, no resizing.
SIZES = [(1, 1), (50, 70), (1, 130), (90, 1), (SIDE, SIDE), (120, 60), (33, 200)]
ASPECTS = [1.0, 2.5, 1.0, 1.0, 1.0, 0.4, 1.0]
MODES: tuple[ResizeMode, ...] = ("shortest", "longest", "squash")
FILTERS: tuple[Interpolation, ...] = ("bicubic", "bilinear")
Image = NDArray[np.uint8]


def equal_to_pillows(found: Image, expected: Image, frame: Frame) -> None:
    """Bit by bit, but where an older pillow makes the passes in another order."""
    if not frame.rows_first or int(PIL.__version__.split(".")[0]) >= 13:
        np.testing.assert_array_equal(found, expected)


def noise(size: tuple[int, int], seed: int = 0, edges: bool = False) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return (pixels > 127).astype(np.uint8) * 255 if edges else pixels


def batch_of(images: Sequence[Image], frames: Sequence[Frame], device: str) -> dict[str, Tensor]:
    """The arguments of `resize`. Nothing is where a batch of equal images would have it."""
    unused, share = 7, max(frame.between for frame in frames) + 7
    numbers = np.zeros(sum(frame.taps for frame in frames), np.int32)
    tables, plan, pixels, place = Taps(numbers), [], [], 0
    for row, (image, frame) in enumerate(zip(images, frames, strict=True)):
        plan.append(passes(frame, place, row * share, row * 3 * SIDE**2, tables))
        pixels += [image.reshape(-1), np.full(unused, 255, np.uint8)]
        place += image.nbytes + unused
    host = torch.tensor(plan)
    return {
        "pixels": torch.from_numpy(np.concatenate(pixels)).to(device),
        "taps": torch.from_numpy(numbers[: tables.end]).to(device),
        "passes": host.to(device),
        "host_passes": host,
        # The levels themselves, in each channel with another thousand.
        "levels": (torch.arange(256.0) + 1000.0 * torch.arange(3)[:, None]).to(device),
        "between": torch.full((len(images) * share,), 255, dtype=torch.uint8, device=device),
        "out": torch.full((len(images), 3, SIDE, SIDE), torch.nan, device=device),
    }


def by_pytorch(image: Image, frame: Frame) -> Image:
    arguments = batch_of([image], [frame], "cpu")
    with dispatch.using("off"):
        resize(**arguments)
    levels = arguments["out"][0] - 1000.0 * torch.arange(3)[:, None, None]
    return levels.permute(1, 2, 0).numpy()


@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    seed=st.integers(0, 99),
    edges=st.booleans(),
    aspect=st.sampled_from((1.0, 0.4, 2.5)),
    mode=st.sampled_from(MODES),
    interpolation=st.sampled_from(FILTERS),
)
def test_pytorchs_path_is_bitwise_equal_to_pillows(
    size: tuple[int, int],
    seed: int,
    edges: bool,
    aspect: float,
    mode: ResizeMode,
    interpolation: Interpolation,
) -> None:
    image = noise(size, seed, edges)
    clip = ClassifierInput(SIDE, 4, mode, interpolation, GREY, GREY)
    frame = classifier_frame(*size, clip, aspect)
    expected = classifier_pixels(image, SIDE, mode, interpolation, pixel_aspect=aspect)
    equal_to_pillows(by_pytorch(image, frame), expected, frame)
    frame = segmenter_frame(*size, SIDE)
    equal_to_pillows(by_pytorch(image, frame), segmenter_pixels(image, SIDE), frame)


def resized(images: Sequence[Image], frames: Sequence[Frame], device: str) -> list[Image]:
    """Levels (S, S, 3) of each image: the kernel's, which are also those of PyTorch's path."""
    found = []
    for mode, path in (("require", "triton"), ("off", "torch")):
        arguments = batch_of(images, frames, device)
        with dispatch.using(mode):  # type: ignore[arg-type]
            resize(**arguments)
        assert dispatch.last_path("resize") == path
        found.append(arguments["out"].cpu() - 1000.0 * torch.arange(3)[:, None, None])
    assert torch.equal(*found)
    return [*found[0].permute(0, 2, 3, 1).numpy()]


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("mode", MODES)
def test_a_batch_of_all_sizes_is_bitwise_equal_to_pillows(
    mode: ResizeMode, interpolation: Interpolation, device: str
) -> None:
    images = [noise(size, seed, edges=seed % 2 == 0) for seed, size in enumerate(SIZES)]
    clip = ClassifierInput(SIDE, 4, mode, interpolation, GREY, GREY)
    frames = [
        classifier_frame(*size, clip, aspect) for size, aspect in zip(SIZES, ASPECTS, strict=True)
    ]
    for found, image, aspect, frame in zip(
        resized(images, frames, device), images, ASPECTS, frames, strict=True
    ):
        expected = classifier_pixels(image, SIDE, mode, interpolation, pixel_aspect=aspect)
        equal_to_pillows(found, expected, frame)


def test_the_segmenters_input_is_bitwise_equal_to_pillows(device: str) -> None:
    images = [noise(size, seed) for seed, size in enumerate(SIZES)]
    frames = [segmenter_frame(*size, SIDE) for size in SIZES]
    for found, image, frame in zip(resized(images, frames, device), images, frames, strict=True):
        equal_to_pillows(found, segmenter_pixels(image, SIDE), frame)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("size", [(9, 4000), (4000, 9)])
def test_a_sum_of_hundreds_of_pixels(
    size: tuple[int, int], interpolation: Interpolation, device: str
) -> None:
    image = noise(size, edges=True)
    clip = ClassifierInput(SIDE, 4, "squash", interpolation, GREY, GREY)
    frame = classifier_frame(*size, clip)
    (found,) = resized([image], [frame], device)
    equal_to_pillows(found, classifier_pixels(image, SIDE, "squash", interpolation), frame)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="the whole sweep needs a GPU")
def test_the_whole_sweep(device: str) -> None:
    random = np.random.default_rng(0)
    for _ in range(10):
        images = [noise((height, width)) for height, width in random.integers(1, 1200, (8, 2))]
        for mode in MODES:
            clip = ClassifierInput(SIDE, 4, mode, "bicubic", GREY, GREY)
            frames = [classifier_frame(image.shape[0], image.shape[1], clip) for image in images]
            for found, image, frame in zip(
                resized(images, frames, device), images, frames, strict=True
            ):
                equal_to_pillows(found, classifier_pixels(image, SIDE, mode, "bicubic"), frame)


def test_writes_only_its_outputs(device: str) -> None:
    images = [noise(size) for size in SIZES[:2]]
    arguments = batch_of(images, [segmenter_frame(*size, SIDE) for size in SIZES[:2]], device)
    kept = {name: tensor.clone() for name, tensor in arguments.items()}
    around = torch.full((4, 3, SIDE, SIDE), -1.0, device=device)
    with dispatch.using("require"):
        resize(**arguments | {"out": around[1:3]})
    assert (around[[0, 3]] == -1).all()
    assert (around[1:3] >= 0).all()
    for name in ("pixels", "taps", "passes", "host_passes", "levels"):
        assert torch.equal(arguments[name], kept[name])


def test_an_empty_batch(device: str) -> None:
    empty = batch_of([noise((3, 3))], [segmenter_frame(3, 3, SIDE)], device)
    empty |= {name: empty[name][:0] for name in ("passes", "host_passes", "out")}
    for mode in ("require", "off"):
        with dispatch.using(mode):
            resize(**empty)


@pytest.mark.parametrize(
    ("argument", "wrong"),
    [
        ("pixels", torch.zeros(9, dtype=torch.int8)),
        ("pixels", torch.zeros(3, 3, dtype=torch.uint8)),
        ("taps", torch.zeros(9, dtype=torch.int64)),
        ("passes", torch.zeros(1, 2, 9, dtype=torch.int64)),
        ("passes", torch.zeros(1, 2, 10, dtype=torch.int64, device="meta")),
        ("host_passes", torch.zeros(2, 2, 10, dtype=torch.int64)),
        ("host_passes", torch.zeros(1, 2, 10, dtype=torch.int64, device="meta")),
        ("levels", torch.zeros(256)),
        ("between", torch.zeros(9, dtype=torch.int32)),
        ("out", torch.zeros(1, 3, 4, 5)),
        ("out", torch.zeros(1, 3, 8, 8)[..., ::2, ::2]),
        ("out", torch.zeros(1, 3, 4, 4, dtype=torch.float16)),
    ],
)
def test_arguments_that_do_not_fit(argument: str, wrong: Tensor) -> None:
    arguments = batch_of([noise((3, 3))], [segmenter_frame(3, 3, SIDE)], "cpu")
    with refuses(InputError, "input.invalid", argument):
        resize(**arguments | {argument: wrong})
