"""The image-folder layout: one folder per class, named after the class."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from medfocus.engine.io.inputs.walk import LEFTOVERS, Walk
from medfocus.errors import FileError, InputError
from medfocus.fewshot.data.dataset import Dataset, Item, Part
from medfocus.fewshot.data.splitting.groups import patient_group
from medfocus.models.clip.class_names import check_distinct, class_name
from medfocus.models.clip.text import class_prompt

LAYOUT = (
    "lay images out as FOLDER/<class>/<image> or FOLDER/{train,test}/<class>/<image>, with val"
    " beside them if you like"
)

_Files = dict[str, list[Path]]  # class name to image files
_Folder = Literal["train", "val", "test"]

_NAMES: dict[str, _Folder] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
VALIDATION_NOTE = "its validation part is trained on, together with the training part"
# Files that file managers and labelling tools leave next to images.
_LEFTOVERS = ("thumbs.db", "desktop.ini")
_TABLES = (".csv", ".json", ".txt", ".xlsx")


def part_of(name: str) -> _Folder | None:
    """The part of a data set that a name stands for, whatever its case; None if for none."""
    return _NAMES.get(name.lower())


def read_folder(root: Path) -> Dataset:
    """Read an image folder: FOLDER/<class>, or FOLDER/{train,test}/<class>.

    The parts may also be named training and testing; case is ignored. A folder val, valid or
    validation beside them belongs to the training part. Dashes and underscores in a class folder's
    name become spaces. Every file below a class folder is one of its images, except hidden files,
    tables and notes. DICOM files are grouped by patient.

    Raises:
        FileError: no such folder, or a file name that is not UTF-8.
        InputError: the folder has no class folders, a class is empty or occurs twice, two classes
            look like one, one of the two parts is missing, parts are mixed with class folders, or
            their classes differ.
    """
    if not root.is_dir():
        raise FileError(str(root), "is not a folder", LAYOUT, code="file.missing")
    walk = Walk()
    named = _part_folders(root, subfolders(root, walk))
    if not named:
        return _dataset(root, {None: _class_folders(root, walk)}, walk)
    train = _class_folders(named["train"], walk)
    extra = _class_folders(named["val"], walk) if "val" in named else {}
    test = _class_folders(named["test"], walk)
    merged = {name: train.get(name, []) + extra.get(name, []) for name in sorted({*train, *extra})}
    check_distinct(sorted({*merged, *test}), str(root))
    _check_same_classes(root, merged, test)
    notes = (VALIDATION_NOTE,) if extra else ()
    return _dataset(root, {"train": merged, "test": test}, walk, notes)


def subfolders(folder: Path, walk: Walk) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones and those of other programs."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    walk.leftovers += [path for path in folders if path.name in LEFTOVERS]
    return [path for path in folders if path.name not in LEFTOVERS and path.name[0] != "."]


def image_files(folder: Path, walk: Walk) -> list[Path]:
    """Every file below a folder that may be an image, sorted by path.

    Skips hidden files and the leftovers of file managers and labelling tools. Files of any other
    kind are kept, so that a wrong one is reported when it is read.

    Raises:
        FileError: a file name that is not UTF-8.
    """
    files = [path for path in walk.files(folder) if not _leftover(path)]
    for path in files:
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            raise FileError(
                repr(str(path)), "has a name that is not UTF-8", "rename it", code="file.bad_name"
            ) from error
    return files


def leftover_notes(walk: Walk) -> tuple[str, ...]:
    """One note if the walk met folders of other programs."""
    if not walk.leftovers:
        return ()
    first, *more = dict.fromkeys(walk.leftovers)
    others = f" and {len(more)} others like it" if more else ""
    return (f"{first}{others} belong to another program, and are left out",)


def _leftover(path: Path) -> bool:
    return path.name.lower() in _LEFTOVERS or path.suffix.lower() in _TABLES


def _part_folders(root: Path, folders: list[Path]) -> dict[_Folder, Path]:
    """The folders of the parts by name; empty if all folders are classes."""
    parts = [folder for folder in folders if part_of(folder.name)]
    if not parts:
        return {}
    named = {name: folder for folder in parts if (name := part_of(folder.name))}
    others = [folder.name for folder in folders if folder not in parts]
    names = " and ".join(folder.name for folder in parts)
    if others:
        raise InputError(
            str(root),
            f"holds {others[0]} next to {names}: parts of a data set, or classes?",
            "keep only the train and test folders in it, or rename the class",
            code="dataset.wrong_layout",
        )
    if len(parts) > len(named):
        raise InputError(
            str(root),
            f"holds {names}, which are the same part",
            "merge the two folders",
            code="dataset.wrong_layout",
        )
    if not {"train", "test"} <= named.keys():
        other = "test" if "train" in named else "train"
        raise InputError(
            str(root),
            f"holds {names} but no {other} folder",
            f"add the {other} folder, or pass {parts[0]} to have a test part held out of it",
            code="dataset.wrong_layout",
        )
    return named


def _class_folders(folder: Path, walk: Walk) -> _Files:
    """The image files of each class, sorted by class name."""
    classes: _Files = {}
    for path in subfolders(folder, walk):
        name = class_name(path.name.replace("-", " ").replace("_", " "), str(path))
        if name in classes:
            raise InputError(
                str(folder),
                f"has two folders for the class {name!r}",
                "merge the two folders",
                code="dataset.wrong_layout",
            )
        classes[name] = image_files(path, walk)
        if not classes[name]:
            raise InputError(str(path), "holds no images", LAYOUT, code="dataset.empty")
    if not classes:
        raise InputError(str(folder), "holds no class folders", LAYOUT, code="dataset.empty")
    check_distinct(classes, str(folder))
    return dict(sorted(classes.items()))


def _check_same_classes(root: Path, train: _Files, test: _Files) -> None:
    differing = sorted(train.keys() ^ test.keys())
    if differing:
        only = "train" if differing[0] in train else "test"
        raise InputError(
            str(root),
            f"has the class {differing[0]!r} only in its {only} part",
            "give both parts the same class folders",
            code="dataset.missing_class",
        )


def _dataset(
    root: Path, parts: Mapping[Part | None, _Files], walk: Walk, notes: tuple[str, ...] = ()
) -> Dataset:
    classes = tuple(next(iter(parts.values())))
    items = [
        Item(path, classes.index(name), patient_group(path), part)
        for part, files in parts.items()
        for name, paths in files.items()
        for path in paths
    ]
    return Dataset(
        name=root.resolve().name,
        root=root,
        classes=classes,
        prompts=tuple(class_prompt(name) for name in classes),
        items=tuple(sorted(items, key=lambda item: item.path)),
        notes=notes + leftover_notes(walk),
    )
