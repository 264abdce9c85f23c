"""Images from files, arrays, tensors and pillow, and what is refused."""

import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from medfocus.engine.io import images
from medfocus.engine.io.images import MAX_PIXELS, SourceImage
from medfocus.errors import ImageError
from tests.engine.io.read import read_images
from tests.errors import refuses

COLOUR = np.random.default_rng(0).integers(0, 256, (13, 21, 3), dtype=np.uint8)
GREY = COLOUR[..., 0]


def only(source: Any, name: str = "the image") -> SourceImage:
    (image,) = read_images(source, name)
    assert image.pixels.dtype == np.uint8
    assert image.pixels.ndim == 3
    assert image.pixels.shape[2] == 3
    return image


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def min_max(values: np.ndarray) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    levels = np.rint((values.astype(np.float64) - low) / (high - low) * 255)
    return levels[..., None].repeat(3, axis=-1) if values.ndim == 2 else levels


# Files


@pytest.mark.parametrize(
    ("suffix", "options"),
    [(".png", {}), (".tiff", {}), (".bmp", {}), (".webp", {"lossless": True})],
)
def test_lossless_colour_is_unchanged(tmp_path: Path, suffix: str, options: Any) -> None:
    path = save(Image.fromarray(COLOUR), tmp_path / f"image{suffix}", **options)
    image = only(path)
    np.testing.assert_array_equal(image.pixels, COLOUR)
    assert image.source == str(path)
    assert image.warnings == ()
    np.testing.assert_array_equal(only(str(path)).pixels, COLOUR)


def test_jpeg_is_decoded_as_pillow_decodes_it(tmp_path: Path) -> None:
    path = save(Image.fromarray(COLOUR), tmp_path / "image.jpg")
    np.testing.assert_array_equal(only(path).pixels, np.asarray(Image.open(path)))


def test_the_format_is_recognised_by_content_not_by_suffix(tmp_path: Path) -> None:
    path = save(Image.fromarray(COLOUR), tmp_path / "image.jpg", format="PNG")
    np.testing.assert_array_equal(only(path).pixels, COLOUR)
    bare = path.rename(tmp_path / "image")
    np.testing.assert_array_equal(only(bare).pixels, COLOUR)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    # Four flat quarters of 16 x 16, so that JPEG keeps them; the expected turn is numpy's.
    upright = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((16, 16), np.uint8))
    upright = np.concatenate([upright, upright[:, :16]], axis=1)
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turned)).convert("RGB")
    path = save(stored, tmp_path / f"image{suffix}", exif=exif, quality=100, lossless=True)
    difference = only(path).pixels.astype(int) - upright[..., None]
    assert np.abs(difference).max() <= 1
    np.testing.assert_array_equal(only(Image.open(path)).pixels, only(path).pixels)


def test_cmyk_jpegs_with_and_without_adobes_marker_show_their_inks(tmp_path: Path) -> None:
    inks = np.zeros((16, 64, 4), np.uint8)
    for index, ink in enumerate([(255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255)]):
        inks[:, 16 * index : 16 * (index + 1)] = ink
    colours = [(0, 255, 255), (255, 0, 255), (255, 255, 0), (0, 0, 0)]
    expected = np.repeat(np.array(colours, np.uint8), 16, axis=0)[None].repeat(16, axis=0)

    adobe = save(Image.frombytes("CMYK", (64, 16), inks.tobytes()), tmp_path / "a.jpg", quality=100)
    assert np.abs(only(adobe).pixels.astype(int) - expected).max() <= 3

    # Without the marker the inks are stored as they are; pillow itself writes only inverted ones.
    buffer = io.BytesIO()
    Image.frombytes("CMYK", (64, 16), (255 - inks).tobytes()).save(buffer, "JPEG", quality=100)
    data = buffer.getvalue()
    start = data.index(b"\xff\xee")
    stop = start + 2 + struct.unpack(">H", data[start + 2 : start + 4])[0]
    plain = tmp_path / "plain.jpg"
    plain.write_bytes(data[:start] + data[stop:])
    assert np.abs(only(plain).pixels.astype(int) - expected).max() <= 3


def test_alpha_is_composited_over_black(tmp_path: Path) -> None:
    rgba = np.random.default_rng(1).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    expected = np.rint(rgba[..., :3].astype(np.float64) * rgba[..., 3:] / 255)
    for source in (rgba, Image.fromarray(rgba), save(Image.fromarray(rgba), tmp_path / "a.png")):
        np.testing.assert_array_equal(only(source).pixels, expected)
    grey_alpha = Image.fromarray(rgba[..., [0, 3]], mode="LA")
    path = save(grey_alpha, tmp_path / "la.png")
    np.testing.assert_array_equal(
        only(path).pixels, np.rint(rgba[..., :1].repeat(3, -1) * (rgba[..., 3:] / 255))
    )


def test_palettes_with_and_without_transparency(tmp_path: Path) -> None:
    indexed = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode="P")
    indexed.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    expected = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 0]]], np.uint8)
    np.testing.assert_array_equal(only(save(indexed, tmp_path / "p.png")).pixels, expected)
    path = save(indexed, tmp_path / "t.png", transparency=1)
    expected[:, 1] = 0
    np.testing.assert_array_equal(only(path).pixels, expected)


def test_bilevel_images_are_black_and_white(tmp_path: Path) -> None:
    path = save(Image.fromarray(GREY > 127), tmp_path / "image.png")
    np.testing.assert_array_equal(only(path).pixels[..., 0], (GREY > 127) * 255)


@pytest.mark.parametrize(
    ("name", "dtype"), [("a.png", np.uint16), ("a.tiff", np.uint16), ("a.tiff", np.int32)]
)
def test_deep_grey_is_min_max_normalised(tmp_path: Path, name: str, dtype: Any) -> None:
    values = np.random.default_rng(2).integers(300, 4000, (11, 8)).astype(dtype)
    image = only(save(Image.fromarray(values), tmp_path / name))
    np.testing.assert_array_equal(image.pixels, min_max(values))
    assert "min-max normalised" in image.warnings[0]


def test_float_tiffs_are_min_max_normalised_and_must_be_finite(tmp_path: Path) -> None:
    values = np.linspace(-3.0, 9.0, 25, dtype=np.float32).reshape(5, 5)
    path = save(Image.fromarray(values), tmp_path / "a.tiff")
    expected = np.rint((values.astype(np.float64) + 3) / 12 * 255)
    np.testing.assert_array_equal(only(path).pixels[..., 0], expected)
    values[2, 2] = np.nan
    save(Image.fromarray(values), path)
    with refuses(ImageError, "image.not_finite", str(path)):
        read_images(path)


def test_every_page_of_a_tiff_is_an_item(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.roll(COLOUR, k, axis=0)) for k in range(3)]
    pages.append(Image.fromarray(GREY.astype(np.uint16) * 16))  # another mode
    path = save(pages[0], tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    read = read_images(path)
    assert [image.source for image in read] == [f"{path}#{k}" for k in range(4)]
    for k in range(3):
        np.testing.assert_array_equal(read[k].pixels, np.roll(COLOUR, k, axis=0))
    np.testing.assert_array_equal(read[3].pixels, min_max(GREY))
    assert [len(image.warnings) for image in read] == [0, 0, 0, 1]


def test_animations_give_their_first_frame_with_a_warning(tmp_path: Path) -> None:
    frames = [Image.fromarray(COLOUR), Image.fromarray(COLOUR[::-1].copy())]
    path = save(frames[0], tmp_path / "a.png", save_all=True, append_images=frames[1:])
    image = only(path)
    np.testing.assert_array_equal(image.pixels, COLOUR)
    assert "first of its 2 frames" in image.warnings[0]


# Arrays, tensors, pillow images


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3)])
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int16, np.uint32, np.int64])
def test_integer_arrays(shape: tuple[int, ...], dtype: Any) -> None:
    values = np.maximum(np.random.default_rng(3).integers(-99, 200, shape), 0).astype(dtype)
    channels = values.reshape(6, 5, -1)
    expected = channels if dtype == np.uint8 else min_max(channels)
    image = only(values, "array 3")
    np.testing.assert_array_equal(image.pixels, np.broadcast_to(expected, (6, 5, 3)))
    assert image.source == "array 3"
    assert bool(image.warnings) == (dtype not in (np.bool_, np.uint8))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_arrays_in_the_unit_range(dtype: Any) -> None:
    values = (GREY / 255).astype(dtype)
    image = only(values)
    np.testing.assert_array_equal(image.pixels[..., 1], np.rint(values.astype(np.float64) * 255))
    assert image.warnings == ()


def test_a_constant_deep_image_is_black() -> None:
    assert not only(np.full((3, 3), 700, np.int16)).pixels.any()


def test_pixels_are_a_copy() -> None:
    mine = COLOUR.copy()
    image = only(mine)
    mine[:] = 0
    np.testing.assert_array_equal(image.pixels, COLOUR)


@pytest.mark.parametrize("strides", [np.s_[::2, ::-1], np.s_[::-1, ::3]])
def test_views_with_odd_strides(strides: Any) -> None:
    np.testing.assert_array_equal(only(COLOUR[strides]).pixels, COLOUR[strides])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.from_numpy(COLOUR).permute(2, 0, 1),
        (torch.from_numpy(COLOUR).permute(2, 0, 1) / 255).requires_grad_(),
        torch.from_numpy(COLOUR).permute(2, 0, 1).contiguous(),
    ],
)
def test_tensors_are_channels_first(tensor: torch.Tensor) -> None:
    np.testing.assert_array_equal(only(tensor).pixels, COLOUR)


def test_grey_and_bfloat16_tensors() -> None:
    np.testing.assert_array_equal(only(torch.from_numpy(GREY)).pixels[..., 2], GREY)
    np.testing.assert_array_equal(only(torch.from_numpy(GREY)[None]).pixels[..., 2], GREY)
    half = torch.full((1, 4, 4), 0.5, dtype=torch.bfloat16)
    assert (only(half).pixels == 128).all()


def test_a_pillow_image_is_one_image_and_is_not_modified() -> None:
    given = Image.fromarray(COLOUR)
    image = only(given, "slide 7")
    np.testing.assert_array_equal(image.pixels, COLOUR)
    assert image.source == "slide 7"
    np.testing.assert_array_equal(np.asarray(given), COLOUR)


def test_torch_is_not_imported() -> None:
    """The air-gapped installation has no torch, which a blocked import imitates."""
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "from medfocus.engine.preprocess.geometry import Geometry\n"
        "from medfocus.engine.preprocess.resize import classifier_pixels\n"
        "from medfocus.engine.io.images import converted\n"
        "import medfocus.engine.io.reading.worker\n"
        "print(converted(np.zeros((3, 4), np.uint8), 'a').pixels.shape)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout == "(3, 4, 3)\n", result.stderr


# Failures


def refused(source: Any, code: str, word: str = "", name: str | None = None) -> None:
    """It is an ImageError with that code, about that source, whose text contains the word."""
    item = name or (str(source) if isinstance(source, str | Path) else None)
    with refuses(ImageError, f"image.{code}") as caught:
        read_images(source, name or "the image")
    assert item in (None, caught.value.item)
    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("content", "code", "word"),
    [
        (b"", "empty", ""),
        (b"just some notes\n" * 40, "not_an_image", ""),
        (b"GIF89a" + bytes(200), "not_an_image", "PNG, JPEG, TIFF"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "lfs_pointer",
            "git lfs pull",
        ),
        (b"\x89PNG\r\n\x1a\n", "not_an_image", ""),
    ],
)
def test_files_that_are_not_images(tmp_path: Path, content: bytes, code: str, word: str) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content)
    refused(path, code, word)


def test_missing_files_directories_and_impossible_names(tmp_path: Path) -> None:
    refused(tmp_path / "none.png", "not_found")
    refused(tmp_path, "not_an_image")
    refused("/dev/zero", "not_an_image")
    refused("a\0b.png", "unreadable")
    refused(str(tmp_path / ("x" * 5000)), "unreadable")


def test_files_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(Image.fromarray(COLOUR), tmp_path / "a.png")

    def forbidden(self: Path, *_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))  # root may read everything

    monkeypatch.setattr(Path, "open", forbidden)
    refused(path, "not_permitted")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff", ".bmp", ".webp"])
def test_every_truncation_is_an_image_error(tmp_path: Path, suffix: str) -> None:
    whole = save(Image.fromarray(COLOUR), tmp_path / f"whole{suffix}").read_bytes()
    path = tmp_path / f"cut{suffix}"
    for kept in range(1, len(whole) // 2, max(1, len(whole) // 60)):
        path.write_bytes(whole[:kept])
        with pytest.raises(ImageError) as caught:
            read_images(path)
        assert caught.value.item == str(path)
        assert caught.value.code in ("image.damaged", "image.not_an_image")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff", ".bmp", ".webp"])
def test_random_damage_is_read_or_an_image_error(tmp_path: Path, suffix: str) -> None:
    options = {"compression": "tiff_lzw"} if suffix == ".tiff" else {}
    whole = save(Image.fromarray(COLOUR), tmp_path / f"a{suffix}", **options).read_bytes()
    path = tmp_path / f"damaged{suffix}"
    rng = np.random.default_rng(4)
    errors = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), 3):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                read_images(path)
            except ImageError:
                errors += 1
    assert errors > 0


@pytest.mark.parametrize(
    ("array", "code", "word"),
    [
        (np.zeros((3, 4, 2), np.uint8), "not_an_image", "3x4x2"),
        (np.zeros((3, 4, 5), np.uint8), "not_an_image", "3x4x5"),
        (np.zeros((2, 3, 4, 3), np.uint8), "not_an_image", "2x3x4x3"),
        (np.zeros(7, np.uint8), "not_an_image", "shape 7"),
        (np.array(7), "not_an_image", "shape no axes"),
        (np.zeros((0, 4, 3), np.uint8), "empty", "0x4x3"),
        (np.zeros((4, 0), np.float32), "empty", "4x0"),
        (np.array([[None, "a"]], object), "unsupported", "dtype object"),
        (np.zeros((3, 3), np.complex64), "unsupported", "dtype complex64"),
        (np.zeros((3, 3), "M8[s]"), "unsupported", "dtype datetime64"),
        (np.array([[0.5, np.nan]]), "not_finite", ""),
        (np.array([[0.5, np.inf]]), "not_finite", ""),
        (np.array([[-0.25, 1.5]]), "out_of_range", "from -0.25 to 1.5"),
        (np.zeros((3, 3, 4), np.uint16), "unsupported", "dtype uint16"),
    ],
)
def test_arrays_that_are_not_images(array: np.ndarray, code: str, word: str) -> None:
    refused(array, code, word, "array 3")


def test_tensors_that_are_not_images() -> None:
    refused(torch.zeros(2, 3, 4, 4), "not_an_image", "2x3x4x4", "tensor 0")
    refused(torch.zeros(5, 4, 3), "not_an_image", "4x3x5", "tensor 0")  # channels last
    refused(torch.zeros(3, 4, 4, device="meta"), "unreadable", "", "tensor 0")
    refused(torch.full((3, 3), torch.nan), "not_finite", "", "tensor 0")


@pytest.mark.parametrize("source", [None, 3, b"\x89PNG", [[0, 1]]])
def test_other_sources_are_refused(source: Any) -> None:
    refused(source, "not_an_image", type(source).__name__, "item 2")


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100)))


@pytest.mark.parametrize("sides", [(12_000, 12_000), (15_000, 15_000), (2**30, 2**30)])
@pytest.mark.parametrize("action", ["error", "always"])
def test_bombs_are_refused_by_their_declared_size(
    tmp_path: Path, sides: tuple[int, int], action: Any
) -> None:
    assert sides[0] * sides[1] > MAX_PIXELS
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*sides))
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        refused(path, "too_large", str(MAX_PIXELS))
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_limit_is_one_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Image.fromarray(COLOUR)
    path = save(page, tmp_path / "a.tiff", save_all=True, append_images=[page] * 3)
    assert len(read_images(path, max_pixels=13 * 21)) == 4
    with refuses(ImageError, "image.too_large"):
        read_images(path, max_pixels=13 * 21 - 1)
    array = np.zeros((13, 21), np.uint8)
    monkeypatch.setattr(images, "MAX_PIXELS", 13 * 21)
    only(array)
    monkeypatch.setattr(images, "MAX_PIXELS", 13 * 21 - 1)
    refused(array, "too_large", "272", "array 0")
    refused(Image.fromarray(array), "too_large", "272", "image 0")


def test_errors_do_not_affect_later_reads(tmp_path: Path) -> None:
    path = save(Image.fromarray(COLOUR), tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:-300])
    refused(path, "damaged")
    np.testing.assert_array_equal(
        only(ImageOps.mirror(Image.fromarray(COLOUR))).pixels, COLOUR[:, ::-1]
    )
