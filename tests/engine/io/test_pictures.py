"""Deep, planar and float TIFF, PNG of 16 bits, against what tifffile and libpng have written."""

import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from medfocus.engine.io.arrays import rgb
from medfocus.engine.io.images import MAX_PIXELS, SourceImage
from medfocus.engine.io.pictures import PictureFile
from medfocus.errors import ImageError
from tests.engine.io.read import read_images
from tests.errors import refuses

RANDOM = np.random.default_rng(0)
TWELVE = RANDOM.integers(100, 4000, (37, 53))  # 12-bit values
COLOUR = RANDOM.integers(0, 4096, (37, 53, 3))


def only(path: Path, *codes: str) -> np.ndarray:
    """The one image's pixels, with exactly these warnings."""
    (image,) = read_images(path)
    assert tuple(notice.code for notice in image.warnings) == codes
    return image.pixels


def stretched(values: np.ndarray) -> np.ndarray:
    """Min-max normalised over all channels, (H, W, 3)."""
    unit = (values.astype(np.float64) - float(values.min())) / np.ptp(values.astype(np.float64))
    levels = np.rint(unit * 255)
    return np.repeat(levels[..., None], 3, 2) if levels.ndim == 2 else levels


def tiff(folder: Path, array: np.ndarray, **options: Any) -> Path:
    path = folder / "image.tiff"
    tifffile.imwrite(path, array, **options)
    return path


DEEP = "pixels.min_max_normalised"


@pytest.mark.parametrize("dtype", ["i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize(
    ("byteorder", "options"),
    [
        ("<", {}),
        (">", {}),
        ("<", {"compression": "lzw", "predictor": True}),
        (">", {"compression": "zlib", "rowsperstrip": 7}),
        ("<", {"compression": "packbits", "tile": (16, 32)}),
        (">", {"compression": "zstd", "bigtiff": True, "tile": (16, 16)}),
    ],
)
def test_grey_of_every_type(tmp_path: Path, dtype: str, byteorder: str, options: Any) -> None:
    values = TWELVE.astype(np.float64)
    if dtype == "i1":
        values = values / 16 - 128
    elif dtype[0] in "iu" and dtype[1] in "48":
        values = values * 500_000  # beyond the signed range of 32 bits
        values = values - 1e9 if dtype[0] == "i" else values + 2**31
    elif dtype[0] == "f":
        values = values / 1000 - 1
    array = values.astype(byteorder + dtype)
    if dtype[0] == "f" or dtype[1] == "8":
        options = {key: value for key, value in options.items() if key != "predictor"}
    path = tiff(tmp_path, array, photometric="minisblack", byteorder=byteorder, **options)
    np.testing.assert_array_equal(only(path, DEEP), stretched(array))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_white_is_zero(tmp_path: Path, dtype: Any) -> None:
    """A picture and its negative, marked as such, look the same."""
    grey = (TWELVE // 16).astype(dtype)
    expected = stretched(grey) if dtype != np.uint8 else np.repeat(grey[..., None], 3, 2)
    codes = () if dtype == np.uint8 else (DEEP,)
    path = tiff(tmp_path, (255 - grey).astype(dtype), photometric="miniswhite")
    np.testing.assert_array_equal(only(path, *codes), expected)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("compression", [None, "lzw"])
def test_colour(tmp_path: Path, planar: str, dtype: Any, compression: str | None) -> None:
    array = (COLOUR // 16 if dtype == np.uint8 else COLOUR).astype(dtype)
    planes = np.moveaxis(array, -1, 0) if planar == "separate" else array
    path = tiff(tmp_path, planes, photometric="rgb", planarconfig=planar, compression=compression)
    if dtype == np.uint8:
        np.testing.assert_array_equal(only(path), array)
    else:
        np.testing.assert_array_equal(only(path, DEEP), stretched(array))


@pytest.mark.parametrize("opaque", [4095, 65535])
def test_alpha_of_deep_colour(tmp_path: Path, opaque: int) -> None:
    """What is transparent is black and has no part in the range; unassociated (TIFF 6.0)."""
    alpha = np.full((37, 53, 1), opaque)
    alpha[:5] = 0
    values = np.where(alpha > 0, COLOUR // 2 + 900, 60_000)
    array = np.dstack([values, alpha]).astype(np.uint16)
    expected = np.where(alpha > 0, stretched(values[5:])[np.r_[[0] * 5, :32]], 0)
    path = tiff(tmp_path, array, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(only(path, DEEP), expected)
    png = tmp_path / "image.png"
    png.write_bytes(imagecodecs.png_encode(array))
    np.testing.assert_array_equal(only(png, DEEP), expected)


def test_alpha_that_is_multiplied_already_or_unspecified(tmp_path: Path) -> None:
    array = np.dstack([COLOUR, np.full((37, 53), 7)]).astype(np.uint16)
    for kind in ("assocalpha", "unspecified"):
        path = tiff(tmp_path, array, photometric="rgb", extrasamples=[kind])
        np.testing.assert_array_equal(only(path, DEEP), stretched(COLOUR))


def test_partly_transparent_grey_png(tmp_path: Path) -> None:
    alpha = RANDOM.integers(1, 65536, TWELVE.shape)
    alpha[0, 0] = 65535
    path = tmp_path / "image.png"
    path.write_bytes(imagecodecs.png_encode(np.dstack([TWELVE, alpha]).astype(np.uint16)))
    expected = stretched(TWELVE) * (alpha / 65535)[..., None]
    assert np.abs(only(path, DEEP) - expected).max() <= 1  # alpha is rounded to 8 bits


@pytest.mark.parametrize("channels", [1, 3])
def test_png_of_16_bits(tmp_path: Path, channels: int) -> None:
    values = TWELVE if channels == 1 else COLOUR
    path = tmp_path / "image.png"
    path.write_bytes(imagecodecs.png_encode(values.astype(np.uint16)))
    np.testing.assert_array_equal(only(path, DEEP), stretched(values))


@pytest.mark.parametrize("bits", [10, 12])
def test_packed_integers(tmp_path: Path, bits: int) -> None:
    values = (TWELVE >> (12 - bits)).astype(np.uint16)
    rows = [
        np.unpackbits(row.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1) for row in values
    ]
    packed = b"".join(np.packbits(row[:, 16 - bits :].reshape(-1)).tobytes() for row in rows)
    path = tiff(tmp_path, np.zeros((37, 53), np.uint16), photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+") as file:
        page = file.pages.first
        offset = page.dataoffsets[0]
        page.tags["BitsPerSample"].overwrite(bits)
        page.tags["StripByteCounts"].overwrite(len(packed))
    data = bytearray(path.read_bytes())
    data[offset : offset + len(packed)] = packed
    path.write_bytes(data)
    np.testing.assert_array_equal(only(path, DEEP), stretched(values))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["tiff", "png"])
def test_orientation_of_deep_images(tmp_path: Path, orientation: int, kind: str) -> None:
    """As pillow turns the same values of 8 bits."""
    grey = (TWELVE // 16).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    shallow = tmp_path / f"shallow.{kind}"
    Image.fromarray(grey).save(shallow, exif=exif)
    deep = tiff(
        tmp_path,
        grey.astype(np.uint16),
        photometric="minisblack",
        extratags=[(274, "H", 1, orientation, True)],
    )
    if kind == "png":
        deep = tmp_path / "deep.png"
        Image.fromarray(grey.astype(np.uint16)).save(deep, exif=exif)
    expected = stretched(only(shallow)[..., 0])
    np.testing.assert_array_equal(only(deep, DEEP), expected)


# Pages


def test_reduced_copies_and_masks_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "image.tiff"
    small, mask = TWELVE[::4, ::4].astype(np.uint16), np.ones(TWELVE.shape, np.bool_)
    with tifffile.TiffWriter(path) as writer:
        writer.write(TWELVE.astype(np.uint16), photometric="minisblack")
        writer.write(small, photometric="minisblack", subfiletype=1)
        writer.write(mask, photometric="minisblack", subfiletype=4)
        writer.write(COLOUR.astype(np.uint16), photometric="rgb", subfiletype=2)
    read = read_images(path)
    assert [image.source for image in read] == [f"{path}#0", f"{path}#1"]
    np.testing.assert_array_equal(read[0].pixels, stretched(TWELVE))
    np.testing.assert_array_equal(read[1].pixels, stretched(COLOUR))
    np.testing.assert_array_equal(
        only(tiff(tmp_path, small, photometric="minisblack", subfiletype=1), DEEP),
        stretched(small),
    )


def test_pages_are_read_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "image.tiff"
    shallow = (COLOUR // 16).astype(np.uint8)
    with tifffile.TiffWriter(path) as writer:
        writer.write(shallow, photometric="rgb", compression="zlib")
        writer.write(TWELVE.astype(np.uint16), photometric="minisblack", compression="lzw")
        writer.write(shallow[::-1], photometric="rgb")
    expected = [shallow, stretched(TWELVE), shallow[::-1]]
    with path.open("rb") as file:
        found = PictureFile(file, "image", MAX_PIXELS)
        assert found.frames == 3
        for index in (2, 0, 1, 1, 0, 2):
            np.testing.assert_array_equal(found.frame(index).pixels, expected[index])


def test_a_file_without_pages_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "image.tiff"
    for first in (0, 10**6):  # no page, or one beyond the end
        path.write_bytes(b"II*\0" + first.to_bytes(4, "little") + bytes(40))
        with refuses(ImageError, "image.damaged", str(path)):
            read_images(path)


@pytest.mark.parametrize("photometric", ["minisblack", "palette"])
def test_a_page_without_pixels_is_empty(tmp_path: Path, photometric: str) -> None:
    colours = {"colormap": np.zeros((3, 256), np.uint16)} if photometric == "palette" else {}
    path = tiff(tmp_path, np.zeros((4, 4), np.uint8), photometric=photometric, **colours)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["ImageWidth"].overwrite(0)
    with path.open("rb") as stream:
        picture = PictureFile(stream, "image", MAX_PIXELS)
        assert picture.decoding_bytes > 0
        with refuses(ImageError, "image.empty", "image"):
            picture.frame(0)


def test_one_page_that_is_too_large_does_not_cost_the_others(tmp_path: Path) -> None:
    path = tmp_path / "image.tiff"
    with tifffile.TiffWriter(path) as writer:
        for array in (TWELVE, TWELVE.repeat(2, axis=0)):
            writer.write(array.astype(np.uint16), photometric="minisblack")
    with path.open("rb") as file:
        picture = PictureFile(file, "image", TWELVE.size)
        np.testing.assert_array_equal(picture.frame(0).pixels, stretched(TWELVE))
        with refuses(ImageError, "image.too_large", "image"):
            picture.frame(1)


def test_a_circle_of_pages_ends(tmp_path: Path) -> None:
    path = tmp_path / "image.tiff"
    with tifffile.TiffWriter(path) as writer:
        for _ in range(3):
            writer.write(TWELVE.astype(np.uint16), photometric="minisblack")
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        second, last = (file.pages[index].offset for index in (1, 2))
    end = last + 2 + 12 * int.from_bytes(data[last : last + 2], "little")
    data[end : end + 4] = second.to_bytes(4, "little")
    path.write_bytes(data)
    assert len(read_images(path)) == 3


# Memory, damage, what is refused

SIDE = 1200
ALSO = 20 * 2**20


@pytest.mark.parametrize(
    ("array", "options"),
    [
        (np.zeros((SIDE, SIDE), np.uint16), {"compression": "zlib"}),
        (np.zeros((SIDE, SIDE), np.float64), {"compression": "lzw", "rowsperstrip": 64}),
        (np.zeros((SIDE, SIDE, 3), np.uint16), {"compression": "zlib"}),
        (np.zeros((SIDE, SIDE, 4), np.uint16), {"extrasamples": ["unassalpha"]}),
        (np.zeros((3, SIDE, SIDE), np.uint16), {"planarconfig": "separate"}),
    ],
)
def test_a_page_needs_no_more_than_it_says(tmp_path: Path, array: np.ndarray, options: Any) -> None:
    array += RANDOM.integers(1, 4096, array.shape).astype(array.dtype)
    photometric = "minisblack" if array.ndim == 2 else "rgb"
    path = tiff(tmp_path, array, photometric=photometric, **options)
    with path.open("rb") as file:
        picture = PictureFile(file, "image", MAX_PIXELS)
        tracemalloc.start()
        picture.frame(0)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak <= picture.decoding_bytes + ALSO


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "lzma"])
def test_a_strip_never_becomes_larger_than_its_page_says(tmp_path: Path, compression: str) -> None:
    """A strip of 64 MiB in a page of 5 kB."""
    bomb = getattr(imagecodecs, f"{compression}_encode")(bytes(2**26))
    path = tiff(tmp_path, np.arange(2500, dtype=np.uint16).reshape(50, 50), compression=compression)
    with tifffile.TiffFile(path, mode="r+") as file:
        page = file.pages.first
        page.tags["StripOffsets"].overwrite(path.stat().st_size)
        page.tags["StripByteCounts"].overwrite(len(bomb))
    path.write_bytes(path.read_bytes() + bomb)
    tracemalloc.start()
    with suppress(ImageError):  # LZW stops where the strip is full, and reads what is there
        read_images(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24


def test_a_huge_tile_is_refused(tmp_path: Path) -> None:
    path = tiff(tmp_path, TWELVE.astype(np.uint16), tile=(64, 64), photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+") as file:
        for name in ("TileWidth", "TileLength"):
            file.pages.first.tags[name].overwrite(65520)
    with refuses(ImageError, "image.too_large", str(path)):
        read_images(path)


def files(folder: Path) -> list[bytes]:
    """One of each decoder."""
    found = [bytes(imagecodecs.png_encode(COLOUR.astype(np.uint16)))]
    for options in ({}, {"compression": "lzw"}, {"compression": "zlib", "tile": (16, 16)}):
        path = tiff(folder, TWELVE.astype(np.uint16), photometric="minisblack", **options)
        found.append(path.read_bytes())
    return found


@pytest.mark.parametrize("index", range(4))
def test_truncations_and_random_damage_are_read_or_an_image_error(
    tmp_path: Path, index: int
) -> None:
    whole = files(tmp_path)[index]
    path = tmp_path / "damaged"
    random = np.random.default_rng(4)
    errors = 0
    for trial in range(150):
        damaged = bytearray(whole[: len(whole) * trial // 80] if trial < 80 else whole)
        for position in random.integers(0, max(len(damaged), 1), 3 if trial >= 80 else 0):
            damaged[position] = random.integers(256)
        path.write_bytes(damaged or b"?")
        try:
            read_images(path)
        except ImageError:
            errors += 1
    assert errors > 70


@pytest.mark.parametrize(
    ("array", "options"),
    [
        (np.zeros((8, 9), np.complex64), {}),
        (TWELVE[:32, :48].astype(np.uint16), {"compression": "jpeg2000"}),
        (COLOUR.astype(np.uint16), {"planarconfig": "contig"}),  # three greys
        (np.dstack([COLOUR, COLOUR]).astype(np.uint16), {"photometric": "rgb"}),
    ],
)
def test_what_has_no_meaning_here_is_refused(
    tmp_path: Path, array: np.ndarray, options: Any
) -> None:
    path = tiff(tmp_path, array, **{"photometric": "minisblack", **options})
    with refuses(ImageError, "image.unsupported", str(path)):
        read_images(path)


def test_not_finite_floats(tmp_path: Path) -> None:
    values = (TWELVE / 7).astype(np.float64)
    for bad in (np.nan, np.inf, -np.inf):
        values[3, 3] = bad
        path = tiff(tmp_path, values, photometric="minisblack")
        with refuses(ImageError, "image.not_finite", str(path)):
            read_images(path)


# Floats that are images in [0, 1]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rounding_errors_beyond_the_unit_range_are_tolerated(dtype: Any) -> None:
    values = (TWELVE / 4000).astype(dtype)
    values[0, 0], values[0, 1] = np.nextafter(dtype(1), dtype(2)), -np.finfo(dtype).eps
    (image,) = read_images(values)
    assert isinstance(image, SourceImage)
    assert image.warnings == ()
    expected = np.rint(np.clip(values.astype(np.float64), 0, 1) * 255)
    np.testing.assert_array_equal(image.pixels[..., 0], expected)
    values[0, 0] = 1.01
    with refuses(ImageError, "image.out_of_range"):
        read_images(values)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((SIDE, SIDE), np.int64),
        np.zeros((SIDE, SIDE, 3), np.uint16)[:, ::-1],
        np.zeros((SIDE, SIDE, 4), np.float32),
        np.zeros((SIDE, SIDE, 4), np.uint8),
    ],
)
def test_arrays_need_no_more_than_they_say(array: np.ndarray) -> None:
    array[...] = RANDOM.random(array.shape) * (1 if array.dtype.kind == "f" else 255)
    tracemalloc.start()
    rgb(array, "array", MAX_PIXELS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    copied = 0 if array.flags.c_contiguous else array.nbytes
    assert peak <= 8 * SIDE**2 + copied + ALSO
