"""Damaged image files: small ones of every format and compression, with bytes changed at random.

    python -m tests.engine.io.mutation 100000 --seed 7

reads so many of them as an engine does, and prints what became of them. Those that end their
reading process, or must not do what they do, are kept in the current folder.
"""

import argparse
import gzip
import io
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image, features

from medfocus.engine.io.image_file import open_path
from medfocus.engine.io.reading.limits import ReadingLimits
from medfocus.engine.io.reading.open_file import OpenFile
from medfocus.engine.io.reading.reader import FileReader
from medfocus.errors import DeviceError, ImageError, MedfocusError
from tests.engine.io.read import shipped

# Every compression that DICOM files are read in, grey and colour, one frame and several.
DICOM = (
    "693_J2KI.dcm",
    "CT_small.dcm",
    "GDCMJ2K_TextGBR.dcm",
    "JPEG2000.dcm",
    "JPEGLSNearLossless_16.dcm",
    "JPGExtended.dcm",
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "SC_rgb_dcmtk_+eb+cy+s2.dcm",
    "SC_rgb_jls_lossy_sample.dcm",
    "SC_rgb_jpeg.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_rle_16bit_2frame.dcm",
    "image_dfl.dcm",
)
FRAMES = 3  # read of each file
_UNEXPECTED = "what must not happen"
_KEPT = ("image.decoder_crashed", "image.too_slow", _UNEXPECTED)
SLOWEST = 10.0  # seconds that no file may take


def originals() -> list[bytes]:
    """Whole files."""
    random_ = np.random.default_rng(5)
    colour = random_.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    deep = random_.integers(0, 2**16, (48, 64), dtype=np.uint16)
    whole = [shipped(name).read_bytes() for name in DICOM]

    def saved(image: Image.Image, kind: str, **options: object) -> None:
        file = io.BytesIO()
        image.save(file, kind, **options)
        whole.append(file.getvalue())

    picture = Image.fromarray(colour)
    saved(picture, "PNG")
    saved(Image.fromarray(deep), "PNG")
    saved(picture, "JPEG")
    saved(picture, "JPEG", progressive=True, subsampling=2)
    saved(picture, "BMP")
    saved(picture, "WEBP", lossless=True)
    saved(picture, "WEBP")
    if features.check("jpg_2000"):
        saved(picture, "JPEG2000")
    for compression in ("raw", "tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits"):
        saved(picture, "TIFF", compression=compression)
    saved(picture, "TIFF", save_all=True, append_images=[picture] * 2)
    saved(Image.fromarray(deep), "TIFF", compression="tiff_lzw")
    voxels = random_.integers(-500, 1000, (12, 9, 4, 2), dtype=np.int16)
    for volume in (voxels, voxels.astype(np.float32)):
        image = nib.Nifti1Image(volume, np.diag([1, 1, 3, 1])).to_bytes()
        whole.extend((image, gzip.compress(image, 1)))
    return whole


def mutated(seed: int) -> Iterator[bytes]:
    """Endlessly many damaged files."""
    draw, whole = random.Random(seed), originals()
    while True:
        yield damaged(draw.choice(whole), draw)


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """A file with some of its bytes changed."""
    data = bytearray(whole)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        _mutate(data, draw)
    return bytes(data)


def _mutate(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data) + 1)
    length = draw.choice((1, 1, 2, 4, 16, 64, 512))
    match draw.randrange(6):
        case 0:  # bytes at random
            data[at : at + length] = draw.randbytes(min(length, len(data) - at))
        case 1:  # numbers at their limits
            extreme = draw.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
            data[at : at + length] = extreme[: len(data) - at]
        case 2:  # one bit
            if at < len(data):
                data[at] ^= 1 << draw.randrange(8)
        case 3:
            del data[at : at + length]
        case 4:
            data[at:at] = data[at : at + length]
        case 5:
            del data[max(at, 1) :]


def read(reader: FileReader, path: Path) -> list[str]:
    """What becomes of a file's first images: the codes of errors, or "read".

    Raises:
        AssertionError: anything that must not happen.
    """
    found, frames = list[str](), 1
    file = OpenFile(path.name, open_path(path, path.name))
    parts = reader.parts(file)
    if isinstance(parts, MedfocusError):
        assert isinstance(parts, ImageError | DeviceError), parts
        assert (parts.item, parts.code != "image.unreadable") == (path.name, True), parts
    else:
        assert parts
    while len(found) < min(frames, FRAMES):
        frames, outcome = reader.read(file, len(found))
        if isinstance(outcome, MedfocusError):
            assert isinstance(outcome, ImageError | DeviceError), outcome
            assert outcome.item == path.name
            assert outcome.code != "image.unreadable", "an exception that no reader expects"
            found.append(outcome.code)
        else:
            height, width, channels = outcome.pixels.shape
            assert channels == 3
            assert height * width > 0
            found.append("read")
    file.close()
    return found


def peak_memory() -> int:
    """The largest that this process or one of its children has been, in bytes."""
    return 1024 * max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    reader = FileReader(ReadingLimits(seconds=SLOWEST))
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mutated.bin")
        for number, data in zip(range(options.count), mutated(options.seed), strict=False):
            path.write_bytes(data)
            begun = time.monotonic()
            found = [_UNEXPECTED]
            try:
                found = read(reader, path)
            finally:
                if not set(found).isdisjoint(_KEPT):
                    kept = Path(f"mutated-{options.seed}-{number}.bin")
                    kept.write_bytes(data)
                    print(f"kept as {kept}: {', '.join(found)}")
            outcomes.update(found)
            slowest = max(slowest, time.monotonic() - begun)
            assert slowest < FRAMES * (SLOWEST + 5)
    reader.close()
    for code, count in outcomes.most_common():
        print(f"{count:8} {code}")
    print(f"slowest file {slowest:.1f} s, largest process {peak_memory() / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
