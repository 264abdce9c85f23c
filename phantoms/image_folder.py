"""Phantoms as image files, one folder per class."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from rich.progress import track

from medfocus.errors import FileError, InputError
from medfocus.files.file_errors import unwritable
from medfocus.phantoms.catalogue import ORGANS, LesionKind
from medfocus.phantoms.phantom import make_phantom

_SEEDS_PER_SET = 1_000_000  # so that sets with different seeds never share an anatomy


def write_image_folder(
    out_dir: Path,
    kinds: Sequence[LesionKind],
    per_class: int,
    seed: int,
    masks_dir: Path | None = None,
) -> None:
    """Write `per_class` phantoms of every kind, the organs in turn, all with different anatomies.

    Args:
        out_dir: a new or empty folder; every class gets a folder in it.
        kinds: the classes.
        per_class: images per class.
        seed: any integer from 0.
        masks_dir: a folder for the masks (8-bit, 0 and 255), under the images' names.

    Raises:
        InputError: the masks would be among the images; the number of images is not positive or
            over a million in all; the seed is negative.
        FileError: a folder is not empty (`file.exists`) or cannot be written (`file.unwritable`).
    """
    if not 0 < per_class * len(kinds) <= _SEEDS_PER_SET:
        raise InputError(
            f"{per_class} images per class",
            "not a valid number",
            f"use 1 to {_SEEDS_PER_SET} images in all",
        )
    for folder in (out_dir, masks_dir):
        if folder is None or not folder.exists():
            continue
        if not folder.is_dir() or any(folder.iterdir()):
            problem = "not an empty folder"
            raise FileError(str(folder), problem, "name a new folder", code="file.exists")
    if masks_dir is not None and masks_dir.resolve().is_relative_to(out_dir.resolve()):
        raise InputError(
            str(masks_dir),
            "would become a class of the image folder",
            "name a folder outside the image folder",
        )

    wanted = [(kind, number) for kind in kinds for number in range(per_class)]
    for offset, (kind, number) in enumerate(track(wanted, "Drawing phantoms")):
        organ = ORGANS[number % len(ORGANS)]
        phantom = make_phantom(seed * _SEEDS_PER_SET + offset, organ, kind)
        name = Path(kind.name.replace(" ", "-")) / f"{organ}-{number:04d}.png"
        save_picture(Image.fromarray(phantom.image), out_dir / name)
        if masks_dir is not None:
            save_picture(Image.fromarray(phantom.mask).convert("L"), masks_dir / name)


def save_picture(image: Image.Image, path: Path) -> None:
    """Write an image file; its folder is created if it does not exist.

    Raises:
        FileError: it cannot be written (`file.unwritable`).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    except OSError as error:
        raise unwritable(path, error) from error
