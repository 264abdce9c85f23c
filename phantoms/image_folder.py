"""Phantoms on the disk, a folder a class."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from rich.progress import track

from medfocus.errors import InputError
from medfocus.phantoms.catalogue import ORGANS, LesionKind
from medfocus.phantoms.phantom import make_phantom

_SEEDS_A_SET = 1_000_000  # so that two sets of different seeds never share an anatomy


def write_image_folder(
    out_dir: Path,
    kinds: Sequence[LesionKind],
    per_class: int,
    seed: int,
    masks_dir: Path | None = None,
) -> None:
    """Write `per_class` phantoms of every kind, the organs in turn, no two of one anatomy.

    Args:
        out_dir: a new or empty folder; every class gets a folder in it.
        kinds: the classes.
        per_class: images a class.
        seed: any integer from 0.
        masks_dir: where the masks go (8-bit, 0 and 255), under the images' own names.

    Raises:
        InputError: a folder that holds something already, masks among the images, a number of
            images that is not positive or over a million in all, a negative seed.
    """
    if not 0 < per_class * len(kinds) <= _SEEDS_A_SET:
        raise InputError(
            f"{per_class} images a class", "not a size of set", f"Use 1 to {_SEEDS_A_SET} in all"
        )
    for folder in (out_dir, masks_dir):
        if folder is not None and folder.exists() and any(folder.iterdir()):
            raise InputError(str(folder), "not empty", "Name a new folder")
    if masks_dir is not None and masks_dir.resolve().is_relative_to(out_dir.resolve()):
        raise InputError(
            str(masks_dir), "would become a class of the image folder", "Name a folder beside it"
        )

    jobs = [(kind, number) for kind in kinds for number in range(per_class)]
    for offset, (kind, number) in enumerate(track(jobs, "Drawing phantoms")):
        organ = ORGANS[number % len(ORGANS)]
        phantom = make_phantom(seed * _SEEDS_A_SET + offset, organ, kind)
        name = Path(kind.name.replace(" ", "-")) / f"{organ}-{number:04d}.png"
        save_picture(Image.fromarray(phantom.image), out_dir / name)
        if masks_dir is not None:
            save_picture(Image.fromarray(phantom.mask).convert("L"), masks_dir / name)


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a picture, its folder made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
