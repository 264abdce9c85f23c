"""TIFF: which pages are images of their own, and the samples that pillow does not read right.

Pillow reads samples of at most 8 bits right, in every colour space. Of others it drops the lower
bits of colour, ignores that 0 is white, and does not know 64 bits, float16 or unsigned 32 bits.
"""

import logging
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tifffile import COMPRESSION, TIFF, TiffFile, TiffPage

from medfocus.engine.io.frames import Frame
from medfocus.engine.io.pixels.deep import deep, over_black
from medfocus.engine.io.pixels.levels import grey_rgb
from medfocus.engine.io.pixels.orientation import upright
from medfocus.errors import ImageError

_NOT_AN_IMAGE = 1 | 4  # NewSubfileType: a reduced copy of another page, a mask for one
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_ALPHA = 2  # ExtraSamples: not yet multiplied with the colours
# Those that can be made to stop at a size: none, LZW, Deflate and its old number, PackBits, LZMA,
# Zstandard.
_CODECS = (1, 5, 8, 32946, 32773, 34925, 50000)


class TiffEntry(NamedTuple):
    """Where a page is in its file, and its size.

    Attributes:
        offset: of its directory.
        number: of the page among all of the file's.
        height, width: in pixels.
        tile: pixels of a strip or tile, which is decoded as a whole.
        nbytes: that `tiff_frame` needs at most, its result included.
        by_pillow: whether pillow reads it right.
    """

    offset: int
    number: int
    height: int
    width: int
    tile: int
    nbytes: int
    by_pillow: bool


def opened_tiff(file: BinaryIO) -> TiffFile:
    """A file's directory, without tifffile's guesses at some microscopes' own formats."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # it quotes what it reads
    return TiffFile(file, is_lsm=False, is_scanimage=False, is_ndpi=False)


def tiff_entries(opened: TiffFile) -> list[TiffEntry]:
    """The pages that are images of their own; all, if none is."""
    entries: list[TiffEntry] = []
    copies: list[TiffEntry] = []
    offsets: set[int] = set()
    for page in opened.pages:
        if not isinstance(page, TiffPage) or page.offset in offsets:  # a damaged chain is a circle
            break
        offsets.add(page.offset)
        (copies if page.subfiletype & _NOT_AN_IMAGE else entries).append(_entry(page))
    return entries or copies


def tiff_frame(opened: TiffFile, entry: TiffEntry, name: str) -> Frame:
    """A page of up to 64 bits per sample, integers or floats, chunky or planar.

    Raises:
        ImageError: a codec, type or number of samples that is not read; values that are not
            finite.
        ValueError and others: damaged.
    """
    opened.filehandle.seek(entry.offset)
    page = TiffPage(opened, entry.number)
    dtype = page.dtype
    if page.compression not in _CODECS or dtype is None or dtype.kind not in "iuf":
        problem = "its TIFF compression or sample type is not supported"
        hint = "save it with LZW or without compression, as integers or floats"
        raise ImageError(name, problem, hint, code="image.unsupported")
    colours = 3 if page.photometric == _RGB else 1
    if page.samplesperpixel not in (colours, colours + 1) or page.imagedepth != 1:
        problem = "its number of samples per pixel does not fit its colours"
        hint = "save it as grey or RGB, one page per channel"
        raise ImageError(name, problem, hint, code="image.unsupported")
    samples = _samples(page)
    # Another sample than alpha has no meaning (TIFF 6.0), and alpha that the colours are already
    # multiplied with has none over black.
    alpha = samples[..., colours] if page.extrasamples == (_ALPHA,) else None
    values, white_is_zero = samples[..., :colours], page.photometric == _WHITE_IS_ZERO
    if page.bitspersample == 8 and dtype == np.uint8:
        frame = _eight_bits(values, alpha, white_is_zero)
    else:
        frame = deep(values, name, alpha, white_is_zero)
    return frame._replace(pixels=upright(frame.pixels, page.tags.valueof(274, 1)))


def _entry(page: TiffPage) -> TiffEntry:
    bits = page.bitspersample if isinstance(page.bitspersample, tuple) else (page.bitspersample,)
    plain = max(bits) <= 8 and page.sampleformat in (1, 4) and page.planarconfig == 1
    rows, columns = _segment(page)
    pixels, tile = page.imagelength * page.imagewidth, rows * columns
    sample = page.samplesperpixel * (page.dtype.itemsize if page.dtype else 1)
    return TiffEntry(
        offset=page.offset,
        number=page.index,
        height=page.imagelength,
        width=page.imagewidth,
        tile=tile,
        nbytes=(2 * sample + 8) * pixels + 3 * sample * tile,
        by_pillow=plain or page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB),
    )


def _segment(page: TiffPage) -> tuple[int, int]:
    """Rows and columns of a tile or strip."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return page.rowsperstrip, page.imagewidth


def _samples(page: TiffPage) -> NDArray[Any]:
    """(H, W, C), decoded so that no strip or tile becomes larger than the page says."""
    rows, columns = _segment(page)
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    limit = rows * -(-columns * samples * page.bitspersample // 8)
    if page.compression != COMPRESSION.NONE and not page.is_contiguous:
        # tifffile itself sets no limit: it decodes pages without compression, after this.
        decompress = TIFF.DECOMPRESSORS[page.compression]
        page.compression = COMPRESSION.NONE
        unpack = page.decode

        def decode(data: bytes | None, *args: Any, **options: Any) -> Any:
            return unpack(data and decompress(data, out=limit), *args, **options)

        page.decode = decode
    array = page.asarray(maxworkers=1)
    if page.axes == "SYX":
        return np.moveaxis(array, 0, -1)
    return array[..., None] if page.axes == "YX" else array


def _eight_bits(
    values: NDArray[np.uint8], alpha: NDArray[np.uint8] | None, white_is_zero: bool
) -> Frame:
    levels = ~values if white_is_zero else np.ascontiguousarray(values)
    levels = grey_rgb(levels[..., 0]) if levels.shape[2] == 1 else levels
    return Frame(levels if alpha is None else over_black(levels, alpha))
