"""The images that an export is checked and calibrated on: the user's own, and phantoms."""

from pathlib import Path

from medfocus.engine.io.images import SourceImage, read_images
from medfocus.engine.io.input_files import find_files
from medfocus.phantoms import KINDS, ORGANS, make_phantom

AT_LEAST, TO_CALIBRATE = 64, 128
# Nothing is trained or measured on phantoms from here, and none is both checked and calibrated on.
SEED, CALIBRATION_SEED = 40_000_000, 45_000_000


def check_images(folder: Path | None, count: int = AT_LEAST, seed: int = SEED) -> list[SourceImage]:
    """The images of a folder, and phantoms up to `count` images at least.

    Args:
        folder: of the user's own images, or None.
        count: how many there must be.
        seed: of the first phantom.

    Raises:
        InputError: a folder without images.
        ImageError: an image that cannot be read.
    """
    own: list[SourceImage] = []
    if folder is not None:
        own = [image for path in find_files([str(folder)]) for image in read_images(path)]
    return own + phantoms(max(0, count - len(own)), seed)


def phantoms(count: int, seed: int = SEED) -> list[SourceImage]:
    """Phantoms of all organs and kinds in turn, every eighth of them healthy."""
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
