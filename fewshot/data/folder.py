"""The image-folder layout: one folder per class, named after the class."""

from collections.abc import Mapping
from pathlib import Path

from medfocus.errors import FileError, InputError
from medfocus.fewshot.data.dataset import Dataset, Item, Part
from medfocus.fewshot.data.splitting.groups import patient_group
from medfocus.models.clip.text import CLASS_PROMPT

LAYOUT = "lay images out as FOLDER/<class>/<image> or FOLDER/{train,test}/<class>/<image>"

_Files = dict[str, list[Path]]  # class name to image files

_PARTS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
}
# Files that file managers and labelling tools leave next to images.
_LEFTOVERS = ("thumbs.db", "desktop.ini")
_TABLES = (".csv", ".json", ".txt", ".xlsx")


def read_folder(root: Path) -> Dataset:
    """Read an image folder: FOLDER/<class>, or FOLDER/{train,test}/<class>.

    The parts may also be named training and testing; case is ignored. Dashes and underscores in a
    class folder's name become spaces. Every file below a class folder is one of its images, except
    hidden files, tables and notes. DICOM files are grouped by patient.

    Raises:
        FileError: no such folder, or a file name that is not UTF-8.
        InputError: the folder has no class folders, a class is empty or occurs twice, one of the
            two parts is missing, parts are mixed with class folders, or their classes differ.
    """
    if not root.is_dir():
        raise FileError(str(root), "is not a folder", LAYOUT, code="file.missing")
    folders = subfolders(root)
    parts = _part_folders(root, folders)
    if not parts:
        return _dataset(root, {None: _class_folders(root)})
    train, test = (_class_folders(parts["train"]), _class_folders(parts["test"]))
    _check_same_classes(root, train, test)
    return _dataset(root, {"train": train, "test": test})


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def image_files(folder: Path) -> list[Path]:
    """Every file below a folder that may be an image, sorted by path.

    Skips hidden files and the leftovers of file managers and labelling tools. Files of any other
    kind are kept, so that a wrong one is reported when it is read.

    Raises:
        FileError: a file name that is not UTF-8.
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
            raise FileError(
                repr(str(path)), "has a name that is not UTF-8", "rename it", code="file.bad_name"
            ) from error
    return files


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _leftover(path: Path) -> bool:
    return path.name.lower() in _LEFTOVERS or path.suffix.lower() in _TABLES


def _part_folders(root: Path, folders: list[Path]) -> dict[Part, Path]:
    """The folders of the two parts; empty if all folders are classes."""
    parts = [folder for folder in folders if folder.name.lower() in _PARTS]
    if not parts:
        return {}
    named = {_PARTS[folder.name.lower()]: folder for folder in parts}
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
    if len(named) == 1:
        other = "test" if "train" in named else "train"
        raise InputError(
            str(root),
            f"holds {names} but no {other} folder",
            f"add the {other} folder, or pass {parts[0]} to have a test part held out of it",
            code="dataset.wrong_layout",
        )
    return named


def _class_folders(folder: Path) -> _Files:
    """The image files of each class, sorted by class name."""
    classes: _Files = {}
    for path in subfolders(folder):
        name = path.name.replace("-", " ").replace("_", " ")
        if name in classes:
            raise InputError(
                str(folder),
                f"has two folders for the class {name!r}",
                "merge the two folders",
                code="dataset.wrong_layout",
            )
        classes[name] = image_files(path)
        if not classes[name]:
            raise InputError(str(path), "holds no images", LAYOUT, code="dataset.empty")
    if not classes:
        raise InputError(str(folder), "holds no class folders", LAYOUT, code="dataset.empty")
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
