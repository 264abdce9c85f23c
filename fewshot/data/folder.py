"""The image-folder layout: a folder a class, named after it, with that class's images inside."""

from collections.abc import Mapping
from pathlib import Path

from medfocus.errors import InputError
from medfocus.fewshot.data.dataset import Dataset, Item, Part
from medfocus.fewshot.data.splitting.groups import patient_group
from medfocus.models.clip.text import CLASS_PROMPT

LAYOUT = "lay images out as FOLDER/<class>/<image> or FOLDER/{train,test}/<class>/<image>"

_Files = dict[str, list[Path]]  # of each class, by its name

_PARTS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
}
# What file managers and labelling tools leave beside images.
_LEFTOVERS = ("thumbs.db", "desktop.ini")
_TABLES = (".csv", ".json", ".txt", ".xlsx")


def read_folder(root: Path) -> Dataset:
    """An image folder: one pool, FOLDER/<class>, or the two parts FOLDER/{train,test}/<class>.

    The parts may be named training and testing, in any case. A dash or underscore in a class
    folder's name stands for a blank in the class's. Every file below a class folder is one of its
    images, except hidden ones, tables and notes; DICOM files are grouped by their patients.

    Raises:
        InputError: no such folder, no class folders in it, a class without files or twice there,
            one part without the other, parts beside class folders, or parts of other classes.
    """
    if not root.is_dir():
        raise InputError(str(root), "is no folder", LAYOUT)
    folders = subfolders(root)
    parts = _part_folders(root, folders)
    if not parts:
        return _dataset(root, {None: _class_folders(root)})
    train, test = (_class_folders(parts["train"]), _class_folders(parts["test"]))
    _check_same_classes(root, train, test)
    return _dataset(root, {"train": train, "test": test})


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden, by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def image_files(folder: Path) -> list[Path]:
    """Every file below a folder that may be an image, in the order of their paths.

    Left out are hidden files and what tools leave beside images. A file of any other kind is
    kept, so that a wrong one is reported when it is read.
    """
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not _hidden(path, folder) and not _leftover(path)
    )
    for path in files:
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            raise InputError(repr(str(path)), "is not named in UTF-8", "rename it") from error
    return files


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _leftover(path: Path) -> bool:
    return path.name.lower() in _LEFTOVERS or path.suffix.lower() in _TABLES


def _part_folders(root: Path, folders: list[Path]) -> dict[Part, Path]:
    """The folders of the two parts; none where all folders are classes."""
    parts = [folder for folder in folders if folder.name.lower() in _PARTS]
    if not parts:
        return {}
    named = {_PARTS[folder.name.lower()]: folder for folder in parts}
    others = [folder.name for folder in folders if folder not in parts]
    names = " and ".join(folder.name for folder in parts)
    if others:
        raise InputError(
            str(root),
            f"holds {others[0]} beside {names}: parts of a data set, or classes?",
            "keep only the train and test folders in it, or rename the class",
        )
    if len(parts) > len(named):
        raise InputError(str(root), f"holds {names}, which is one part twice", "join them")
    if len(named) == 1:
        other = "test" if "train" in named else "train"
        raise InputError(
            str(root),
            f"holds {names} but no {other} folder",
            f"add the {other} folder, or give {parts[0]} to have a part held out of it",
        )
    return named


def _class_folders(folder: Path) -> _Files:
    """The image files of every class, by its name; sorted by it."""
    classes: _Files = {}
    for path in subfolders(folder):
        name = path.name.replace("-", " ").replace("_", " ")
        if name in classes:
            raise InputError(str(folder), f"has two folders for the class {name!r}", "join them")
        classes[name] = image_files(path)
        if not classes[name]:
            raise InputError(str(path), "holds no images", LAYOUT)
    if not classes:
        raise InputError(str(folder), "holds no class folders", LAYOUT)
    return dict(sorted(classes.items()))


def _check_same_classes(root: Path, train: _Files, test: _Files) -> None:
    differing = sorted(train.keys() ^ test.keys())
    if differing:
        only = "train" if differing[0] in train else "test"
        raise InputError(
            str(root),
            f"has the class {differing[0]!r} in its {only} part alone",
            "give both parts the same class folders",
        )


def _dataset(root: Path, parts: Mapping[Part | None, _Files]) -> Dataset:
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
        prompts=tuple(CLASS_PROMPT.format(name) for name in classes),
        items=tuple(sorted(items, key=lambda item: item.path)),
    )
