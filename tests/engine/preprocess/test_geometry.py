"""The classifier's view compared with open_clip's transform, and pooling with exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from open_clip.transform import image_transform
from PIL import Image

from medfocus.engine.preprocess.geometry import Geometry, pooling_weights
from medfocus.errors import InputError
from medfocus.settings import ResizeMode
from tests.errors import refuses

SIDES = st.integers(1, 700)
MODES = st.sampled_from(["shortest", "longest", "squash"])


def area_average(
    box: tuple[Fraction, ...], image: tuple[int, int], mask: np.ndarray, cells: int
) -> np.ndarray:
    """Area average of the mask over each footprint: exact fractions, one pixel at a time."""
    top, left, bottom, right = box
    height, width = image
    h, w = mask.shape
    expected = np.zeros((cells, cells))
    cell_height, cell_width = (bottom - top) / cells, (right - left) / cells
    for i in range(cells):
        for j in range(cells):
            total = Fraction(0)
            for k in range(h):
                y = min(top + (i + 1) * cell_height, Fraction((k + 1) * height, h))
                y -= max(top + i * cell_height, Fraction(k * height, h))
                if y <= 0:
                    continue
                for m in range(w):
                    x = min(left + (j + 1) * cell_width, Fraction((m + 1) * width, w))
                    x -= max(left + j * cell_width, Fraction(m * width, w))
                    total += max(x, Fraction(0)) * y * Fraction(float(mask[k, m]))
            expected[i, j] = total / (cell_height * cell_width)
    return expected


@given(height=SIDES, width=SIDES, size=st.integers(1, 400), mode=MODES)
@settings(deadline=None)
def test_the_box_has_the_size_of_open_clips_resize(
    height: int, width: int, size: int, mode: ResizeMode
) -> None:
    geometry = Geometry.fit(height, width, size, mode)
    if mode == "longest" and round(min(height, width) * size / max(height, width)) == 0:
        return  # open_clip itself fails
    resize = image_transform(size, is_train=False, resize_mode=mode).transforms[0]
    resized_width, resized_height = resize(Image.new("RGB", (width, height))).size
    assert geometry.bottom - geometry.top == pytest.approx(
        size * height / resized_height, rel=1e-12
    )
    assert geometry.right - geometry.left == pytest.approx(size * width / resized_width, rel=1e-12)
    assert (geometry.height, geometry.width) == (height, width)


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.integers(1, 60),
    mode=st.sampled_from(["shortest", "longest"]),
)
@settings(deadline=None)
def test_the_box_starts_where_open_clip_crops(
    height: int, width: int, size: int, mode: ResizeMode
) -> None:
    geometry = Geometry.fit(height, width, size, mode)
    resized_height = round(size * height / (geometry.bottom - geometry.top))
    resized_width = round(size * width / (geometry.right - geometry.left))
    # open_clip's own crop, of a picture whose pixels hold their row and column, plus 1.
    rows, columns = np.mgrid[1 : resized_height + 1, 1 : resized_width + 1]
    position = Image.fromarray((rows * 10000 + columns).astype(np.int32))
    crop = image_transform(size, is_train=False, resize_mode=mode).transforms[1]
    shown = np.asarray(crop(position))
    inside = np.argwhere(shown)
    row, column = inside[0]
    top = shown[row, column] // 10000 - 1 - row
    left = shown[row, column] % 10000 - 1 - column
    assert geometry.top == pytest.approx(top * height / resized_height, abs=1e-9)
    assert geometry.left == pytest.approx(left * width / resized_width, abs=1e-9)


@given(
    image=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    size=st.integers(1, 40),
    mode=MODES,
    cells=st.integers(1, 5),
    mask=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None)
def test_pooling_is_the_exact_area_average(
    image: tuple[int, int],
    size: int,
    mode: ResizeMode,
    cells: int,
    mask: tuple[int, int],
    seed: int,
) -> None:
    sigma = np.random.default_rng(seed).random(mask)
    geometry = Geometry.fit(*image, size, mode)
    check_pooling(geometry, cells, sigma)


@given(
    image=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    start=st.tuples(st.floats(-90, 90), st.floats(-90, 90)),
    extent=st.tuples(st.floats(0.5, 200), st.floats(0.5, 200)),
    cells=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None)
def test_pooling_of_any_box(
    image: tuple[int, int],
    start: tuple[float, float],
    extent: tuple[float, float],
    cells: int,
    seed: int,
) -> None:
    geometry = Geometry(*image, *start, start[0] + extent[0], start[1] + extent[1])
    check_pooling(geometry, cells, np.random.default_rng(seed).random((7, 5)))


def check_pooling(geometry: Geometry, cells: int, sigma: np.ndarray) -> None:
    rows, cols = pooling_weights(geometry, cells, *sigma.shape)
    assert rows.dtype == cols.dtype == np.float32
    assert rows.shape == (cells, sigma.shape[0])
    assert cols.shape == (cells, sigma.shape[1])
    pooled = rows.astype(np.float64) @ sigma @ cols.astype(np.float64).T
    box = tuple(
        Fraction(edge) for edge in (geometry.top, geometry.left, geometry.bottom, geometry.right)
    )
    expected = area_average(box, (geometry.height, geometry.width), sigma, cells)
    # Each weight is rounded once to float32, and the weights of a patch sum to 1 at most.
    np.testing.assert_allclose(pooled, expected, rtol=0, atol=2 * float(np.finfo(np.float32).eps))


@given(height=SIDES, width=SIDES, mode=MODES)
@settings(deadline=None)
def test_weights_sum_to_one_inside_and_to_zero_outside(
    height: int, width: int, mode: ResizeMode
) -> None:
    geometry = Geometry.fit(height, width, 224, mode)
    rows, cols = pooling_weights(geometry, 14, 64, 64)
    ends = (
        (rows, geometry.top, geometry.bottom, height),
        (cols, geometry.left, geometry.right, width),
    )
    for weights, start, stop, length in ends:
        edges = start + (stop - start) * np.arange(15) / 14
        total = weights.sum(axis=1, dtype=np.float64)
        slack = 1e-9 * length
        inside = (edges[:-1] >= -slack) & (edges[1:] <= length + slack)
        outside = (edges[1:] <= 0) | (edges[:-1] >= length)
        assert (weights >= 0).all()
        np.testing.assert_allclose(total[inside], 1, rtol=0, atol=1e-7)
        assert (total[outside] == 0).all()


def test_squash_of_a_square_mask_is_plain_block_averaging() -> None:
    sigma = np.random.default_rng(0).random((256, 256))
    rows, cols = pooling_weights(Geometry.fit(300, 500, 224, "squash"), 16, 256, 256)
    blocks = sigma.reshape(16, 16, 16, 16).mean(axis=(1, 3))
    np.testing.assert_allclose(rows.astype(np.float64) @ sigma @ cols.T, blocks, atol=1e-7)


@pytest.mark.parametrize("sides", [(0, 5, 5), (5, 0, 5), (5, 5, 0), (-1, 5, 5)])
def test_sides_without_pixels_are_refused(sides: tuple[int, int, int]) -> None:
    with refuses(InputError, "input.invalid", "image of"):
        Geometry.fit(*sides, "squash")


def test_unknown_modes_are_refused() -> None:
    with refuses(InputError, "input.invalid", "stretch"):
        Geometry.fit(4, 4, 4, "stretch")  # type: ignore[arg-type]


@given(
    image=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    size=st.integers(1, 40),
    mode=MODES,
    times=st.integers(1, 6),
    wide=st.booleans(),
)
@example(image=(3, 3), size=1, mode="shortest", times=5, wide=True)  # 3 / 0.2 is below 15
@settings(deadline=None)
def test_pixels_that_are_not_square_are_seen_as_the_square_ones_they_cover(
    image: tuple[int, int], size: int, mode: ResizeMode, times: int, wide: bool
) -> None:
    """A pixel of aspect 3 is three square pixels one below the other; of 1/3, side by side."""
    height, width = image
    aspect = 1 / times if wide else float(times)
    square = (height, width * times) if wide else (height * times, width)
    found = Geometry.fit(height, width, size, mode, aspect)
    expected = Geometry.fit(*square, size, mode)
    down, across = height / square[0], width / square[1]
    assert (found.height, found.width) == image
    assert found.top == pytest.approx(expected.top * down, rel=1e-9, abs=1e-9)
    assert found.bottom == pytest.approx(expected.bottom * down, rel=1e-9, abs=1e-9)
    assert found.left == pytest.approx(expected.left * across, rel=1e-9, abs=1e-9)
    assert found.right == pytest.approx(expected.right * across, rel=1e-9, abs=1e-9)
    # The mask is of the whole image, whatever its pixels: so are its weights.
    for ours, theirs in zip(
        pooling_weights(found, 5, 7, 9), pooling_weights(expected, 5, 7, 9), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
