"""PNG, JPEG, TIFF, WebP and BMP files, and pillow images, to uint8 RGB."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from medfocus.engine.io.arrays import check_size, too_large
from medfocus.engine.io.frames import Frame
from medfocus.engine.io.notices import Notice
from medfocus.engine.io.pixels.deep import deep, over_black
from medfocus.engine.io.pixels.orientation import upright
from medfocus.errors import ImageError, MedfocusError

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # and BigTIFF, of either byte order
_ORIENTATION = 274  # the tag, of TIFF and EXIF
_ROWS = 64  # converted at a time
# Bytes per pixel that reading needs at most, measured: 4 for pillow's image, as many again to turn
# it, 3 for ours; WebP's decoder holds another 8.
_PILLOW_BYTES, _WEBP_BYTES = 12, 20


class _Page(NamedTuple):
    """One image, not yet decoded: the bytes that decoding takes at most, and what decodes it."""

    nbytes: int
    read: Callable[[], Frame]


class PictureFile:
    """An open picture file; a TIFF may hold several pages.

    A page that is a reduced copy of another one, or a mask for it, is not an image of its own.

    Raises:
        UnidentifiedImageError: none of `FORMATS`.
        ImageError: damaged.
    """

    def __init__(self, file: BinaryIO, name: str, max_pixels: int) -> None:
        self._name = name
        head = file.read(26)
        file.seek(0)
        with _decoding(name, max_pixels):
            if head[:4] in _TIFF_MAGIC:
                self._pages = _tiff_pages(file, name, max_pixels)
            else:
                self._pages = [_only_page(file, head, name, max_pixels)]

    @property
    def frames(self) -> int:
        """See `ImageFile`."""
        return len(self._pages)

    @property
    def decoding_bytes(self) -> int:
        """See `ImageFile`; of the page that takes most."""
        return max(page.nbytes for page in self._pages)

    def frame(self, index: int) -> Frame:
        """See `ImageFile`."""
        try:
            return self._pages[index].read()
        except UnidentifiedImageError:  # of a page, in a file that was identified
            raise _damaged(self._name) from None


def rgb_of_pillow(image: Image.Image, name: str, max_pixels: int) -> Frame:
    """A pillow image's current frame; the image itself stays as it is.

    EXIF orientation is applied, alpha is composited over black, and grey of more than 8 bits is
    min-max normalised.

    Raises:
        ImageError: no pixels, too many of them, or damaged.
    """
    check_size(image.width * image.height, name, max_pixels)
    _check_not_empty(image.width * image.height, name)
    with _decoding(name, max_pixels):
        return _from_pillow(image, name)


def _only_page(file: BinaryIO, head: bytes, name: str, max_pixels: int) -> _Page:
    image = Image.open(file, formats=FORMATS)
    count: int = getattr(image, "n_frames", 1)
    deep_png = image.format == "PNG" and head[24] == 16
    each = _WEBP_BYTES if image.format == "WEBP" else _PILLOW_BYTES
    if deep_png:  # the samples, their copies, and ours; measured like the others
        each = 4 + 6 * {2: 3, 4: 2, 6: 4}.get(head[25], 1)  # channels, by PNG's colour type

    def read() -> Frame:
        check_size(image.width * image.height, name, max_pixels)
        with _decoding(name, max_pixels):
            frame = _deep_png(file, image, name) if deep_png else _from_pillow(image, name)
        if count == 1:
            return frame
        text = f"animated: the first of its {count} frames is used"
        notice = Notice("pixels.first_of_animation", text)
        return frame._replace(warnings=(*frame.warnings, notice))

    return _Page(each * image.width * image.height, read)


def _tiff_pages(file: BinaryIO, name: str, max_pixels: int) -> list[_Page]:
    # Not at the top: most runs meet no TIFF, and a machine for GPU checks need not have tifffile.
    from medfocus.engine.io.pixels.tiff import TiffEntry, opened_tiff, tiff_entries, tiff_frame

    opened = opened_tiff(file)

    @cache
    def by_pillow() -> Image.Image:
        file.seek(0)
        try:
            return Image.open(file, formats=("TIFF",))
        except UnidentifiedImageError:
            raise _damaged(name) from None

    def page(entry: TiffEntry) -> _Page:
        pixels = entry.height * entry.width

        def read() -> Frame:
            _check_not_empty(pixels, name)
            check_size(max(pixels, entry.tile), name, max_pixels)
            with _decoding(name, max_pixels):
                if not entry.by_pillow:
                    return tiff_frame(opened, entry, name)
                image = by_pillow()
                image.seek(entry.number)
                return rgb_of_pillow(image, name, max_pixels)

        nbytes = _PILLOW_BYTES * pixels if entry.by_pillow else entry.nbytes
        return _Page(max(nbytes, 1), read)

    entries = tiff_entries(opened)
    if not entries:
        raise _damaged(name)
    return [page(entry) for entry in entries]


def _deep_png(file: BinaryIO, image: Image.Image, name: str) -> Frame:
    """A PNG of 16 bits, of whose colours pillow keeps only the upper 8."""
    file.seek(0)
    import imagecodecs  # not at the top: see _tiff_pages

    samples: NDArray[np.uint16] = imagecodecs.png_decode(file.read())  # (H, W) or (H, W, C)
    samples = samples.reshape(*samples.shape[:2], -1)
    colours = samples.shape[2] - 1 | 1  # 1, 3; of 2 and 4 the last is alpha
    alpha = samples[..., -1] if samples.shape[2] > colours else None
    frame = deep(samples[..., :colours], name, alpha)
    exif = Image.Exif()
    exif.load(image.info.get("exif", b""))
    return frame._replace(pixels=upright(frame.pixels, exif.get(_ORIENTATION)))


def _from_pillow(image: Image.Image, name: str) -> Frame:
    inverted = image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):  # float32, or 16 and 32-bit grey
        return deep(np.asarray(image)[..., None], name)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _ROWS):
        band = image.crop((0, top, image.width, min(top + _ROWS, image.height)))
        if inverted:
            # pillow treats every CMYK JPEG as Adobe's, whose inks are stored inverted.
            band = ImageChops.invert(band)
        if image.has_transparency_data:
            rgba = np.asarray(band.convert("RGBA"))
            pixels[top : top + _ROWS] = over_black(rgba[..., :3], rgba[..., 3])
        else:
            pixels[top : top + _ROWS] = np.asarray(band.convert("RGB"))
    return Frame(pixels)


@contextmanager
def _decoding(name: str, max_pixels: int) -> Iterator[None]:
    """What decoders raise is an ImageError without their words, which may quote the file."""
    try:
        yield
    except (MedfocusError, MemoryError, UnidentifiedImageError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large(name, "its declared size", max_pixels) from None
    except Exception:  # of any class: nobody knows what a decoder raises on damaged data
        raise _damaged(name) from None


def _check_not_empty(pixels: int, name: str) -> None:
    if not pixels:
        hint = "give an image of at least 1 x 1"
        raise ImageError(name, "has no pixels", hint, code="image.empty")


def _damaged(name: str) -> ImageError:
    problem = "is damaged, cut short or of an unsupported kind"
    return ImageError(name, problem, "export it again", code="image.damaged")
