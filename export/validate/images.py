"""The images for the parity gate and for calibration: the user's own, and phantoms."""

from pathlib import Path

from medfocus.engine.io.images import SourceImage
from medfocus.engine.io.inputs.files import find_files
from medfocus.engine.io.inputs.staging import staging
from medfocus.engine.io.reading.reader import read_images
from medfocus.phantoms import KINDS, ORGANS, make_phantom

GATE_IMAGES, CALIBRATION_IMAGES = 64, 128
# Phantoms from these seeds on are used for nothing else, and none for both.
SEED, CALIBRATION_SEED = 40_000_000, 45_000_000


def gate_images(
    folder: Path | None, count: int = GATE_IMAGES, seed: int = SEED
) -> list[SourceImage]:
    """The images of a folder, and phantoms until there are `count` images.

    Args:
        folder: the user's images; None for phantoms only.
        count: the number of images; more if the folder has more.
        seed: of the first phantom.

    Raises:
        FileError: the folder contains no images (`file.no_images`).
        ImageError: an image cannot be read.
    """
    own: list[SourceImage] = []
    if folder is not None:
        files = find_files([str(folder)]).files
        with staging() as staged:
            own = [image for file in files for image in read_images(staged(file), file.name)]
    return own + phantoms(max(0, count - len(own)), seed)


def phantoms(count: int, seed: int = SEED) -> list[SourceImage]:
    """Phantoms of all organs and lesion kinds in turn; every eighth has no lesion."""
    drawn: list[SourceImage] = []
    for number in range(count):
        healthy = number % 8 == 7
        phantom = make_phantom(
            seed + number,
            ORGANS[number % len(ORGANS)],
            None if healthy else KINDS[number * 5 % len(KINDS)],
            lesions=0 if healthy else 1,
        )
        drawn.append(SourceImage(phantom.image, f"phantom {number}"))
    return drawn
