"""Recipes: the four data sets of MedFocusCLIP (arXiv 2501.03839), read as they are published."""

import re
from collections import defaultdict
from pathlib import Path

from medfocus.errors import InputError
from medfocus.fewshot.data.dataset import Dataset, Item
from medfocus.fewshot.data.folder import image_files, subfolders
from medfocus.fewshot.data.published import BRAIN, BREAST, COVID, LUNG, PublishedPart, Recipe

RECIPES: dict[str, Recipe] = {"covid": COVID, "lung": LUNG, "brain": BRAIN, "breast": BREAST}
"""By the names that `read_recipe` takes."""

_MASK = re.compile(r"(?P<image>.+)_mask(_\d+)?")  # the name of a mask, without its suffix
_LISTED = 12  # complaints in one message


def read_recipe(recipe: str, root: Path) -> Dataset:
    """A published data set as its archive unpacks, checked to be whole.

    Masks of lesions become the masks of their images. None of the four says which images are of
    one patient, so their items have no groups.

    Args:
        recipe: a key of `RECIPES`.
        root: the folder that holds the parts' or classes' folders, or the one above it.

    Raises:
        InputError: an unknown recipe, a folder that is not there, or one that is not as published:
            the message lists what is missing or too many, class by class.
    """
    if recipe not in RECIPES:
        raise InputError(f"recipe {recipe!r}", "is not known", f"choose {', '.join(RECIPES)}")
    published = RECIPES[recipe]
    home = _home(published, root)
    items: list[Item] = []
    complaints: list[str] = []
    for part in published.parts:
        for label in range(len(published.classes)):
            found, wrong = _read_class(published, home, part, label)
            items += found
            complaints += wrong
    if complaints:
        more = len(complaints) - _LISTED
        raise InputError(
            str(home),
            f"is not the {published.title} as published: {'; '.join(complaints[:_LISTED])}"
            + (f"; and {more} more" if more > 0 else ""),
            f"unpack all of the archive from {published.page}, into an empty folder",
        )
    return Dataset(
        name=recipe,
        root=home,
        classes=published.classes,
        prompts=published.prompts,
        items=tuple(sorted(items, key=lambda item: item.path)),
    )


def _home(published: Recipe, root: Path) -> Path:
    """Of the root and the folders in it, the one that holds most of the recipe's class folders."""
    hint = f"unpack the archive from {published.page} there"
    if not root.is_dir():
        raise InputError(str(root), "is no folder", hint)
    wanted = [Path(part.folder, name) for part in published.parts for name in published.folders]
    candidates = [root, *subfolders(root)]
    found = [sum((folder / name).is_dir() for name in wanted) for folder in candidates]
    if not any(found):
        raise InputError(
            str(root),
            f"holds none of the folders of the {published.title}:"
            f" {', '.join(name.as_posix() for name in wanted)}",
            hint,
        )
    return candidates[found.index(max(found))]


def _read_class(
    published: Recipe, home: Path, part: PublishedPart, label: int
) -> tuple[list[Item], list[str]]:
    """The items of one class in one part, and what is wrong with it."""
    name = Path(part.folder, published.folders[label])
    images, masks = _split_masks(published, image_files(home / name))
    complaints = []
    if len(images) != part.counts[label]:
        there = f"holds {len(images)}" if (home / name).is_dir() else "is missing, with all"
        complaints.append(f"{name.as_posix()} {there} of {part.counts[label]} images")
    if published.classes[label] not in published.lesion_classes:
        return [Item(image, label, part=part.part) for image in images], complaints
    bare = [image.name for image in images if image.stem not in masks]
    if bare:
        complaints.append(
            f"{name.as_posix()} lacks masks of {len(bare)} images, of {bare[0]!r} first"
        )
    return [
        Item(image, label, part=part.part, masks=tuple(masks[image.stem])) for image in images
    ], complaints


def _split_masks(
    published: Recipe, files: list[Path]
) -> tuple[list[Path], defaultdict[str, list[Path]]]:
    """Images, and the masks that lie beside them, by the name of their image without suffix."""
    masks: defaultdict[str, list[Path]] = defaultdict(list)
    if not published.lesion_classes:
        return files, masks
    images = []
    for file in files:
        match = _MASK.fullmatch(file.stem)
        if match:
            masks[match["image"]].append(file)
        else:
            images.append(file)
    return images, masks
