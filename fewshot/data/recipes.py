"""Recipes: the four data sets of MedFocusCLIP (arXiv 2501.03839) in their published layouts."""

import re
from collections import defaultdict
from pathlib import Path

from medfocus.engine.io.inputs.walk import Walk
from medfocus.errors import FileError, InputError
from medfocus.fewshot.data.dataset import Dataset, Item
from medfocus.fewshot.data.folder import image_files, leftover_notes, subfolders
from medfocus.fewshot.data.published import BRAIN, BREAST, COVID, LUNG, PublishedPart, Recipe

RECIPES: dict[str, Recipe] = {"covid": COVID, "lung": LUNG, "brain": BRAIN, "breast": BREAST}
"""The published data sets that `read_recipe` knows, by name."""

_MASK = re.compile(r"(?P<image>.+)_mask(_\d+)?")  # the name of a mask, without its suffix
_LISTED = 12  # problems listed in one message


def read_recipe(recipe: str, root: Path) -> Dataset:
    """Read a published data set as its archive unpacks, and check that it is complete.

    Lesion masks are attached to their images. None of the four data sets says which images belong
    to one patient, so their items have no groups.

    Args:
        recipe: a key of `RECIPES`.
        root: the folder that holds the folders of the parts or classes, or its parent.

    Raises:
        FileError: the folder is missing.
        InputError: an unknown recipe, or the folder differs from the published data set; the
            message lists the differences per class.
    """
    if recipe not in RECIPES:
        raise InputError(
            f"recipe {recipe!r}",
            "is unknown",
            f"use one of {', '.join(RECIPES)}",
            code="dataset.unknown_recipe",
        )
    published = RECIPES[recipe]
    walk = Walk()
    home = _home(published, root, walk)
    items: list[Item] = []
    problems: list[str] = []
    for part in published.parts:
        for label in range(len(published.classes)):
            found, wrong = _read_class(published, home, part, label, walk)
            items += found
            problems += wrong
    if problems:
        more = len(problems) - _LISTED
        raise InputError(
            str(home),
            f"is not the {published.title} as published: {'; '.join(problems[:_LISTED])}"
            + (f"; and {more} more" if more > 0 else ""),
            f"unpack the whole archive from {published.page} into an empty folder",
            code="dataset.incomplete",
        )
    return Dataset(
        name=recipe,
        root=home,
        classes=published.classes,
        prompts=published.prompts,
        items=tuple(sorted(items, key=lambda item: item.path)),
        notes=leftover_notes(walk),
    )


def _home(published: Recipe, root: Path, walk: Walk) -> Path:
    """The root or the folder in it that holds most of the recipe's class folders."""
    hint = f"unpack the archive from {published.page} there"
    if not root.is_dir():
        raise FileError(str(root), "is not a folder", hint, code="file.missing")
    wanted = [Path(part.folder, name) for part in published.parts for name in published.folders]
    candidates = [root, *subfolders(root, walk)]
    found = [sum((folder / name).is_dir() for name in wanted) for folder in candidates]
    if not any(found):
        raise InputError(
            str(root),
            f"holds none of the folders of the {published.title}:"
            f" {', '.join(name.as_posix() for name in wanted)}",
            hint,
            code="dataset.incomplete",
        )
    return candidates[found.index(max(found))]


def _read_class(
    published: Recipe, home: Path, part: PublishedPart, label: int, walk: Walk
) -> tuple[list[Item], list[str]]:
    """The items of one class in one part, and its differences from the published data set."""
    name = Path(part.folder, published.folders[label])
    files = image_files(home / name, walk) if (home / name).is_dir() else []
    images, masks = _split_masks(published, files)
    problems = []
    if len(images) != part.counts[label]:
        there = f"has {len(images)}" if (home / name).is_dir() else "is missing, with all"
        problems.append(f"{name.as_posix()} {there} of {part.counts[label]} images")
    if published.classes[label] not in published.lesion_classes:
        return [Item(image, label, part=part.part) for image in images], problems
    bare = [image.name for image in images if image.stem not in masks]
    if bare:
        problems.append(
            f"{name.as_posix()} lacks the masks of {len(bare)} images, {bare[0]!r} first"
        )
    return [
        Item(image, label, part=part.part, masks=tuple(masks[image.stem])) for image in images
    ], problems


def _split_masks(
    published: Recipe, files: list[Path]
) -> tuple[list[Path], defaultdict[str, list[Path]]]:
    """Images, and the masks in the same folder by their image's name without suffix."""
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
