"""The image-folder layout: a folder a class, named after it, with that class's images inside."""

from pathlib import Path

from medfocus.errors import InputError


def read_folder(root: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """Classes and labelled files of an image folder, both sorted by name.

    A dash or underscore in a folder's name stands for a blank in the class's.

    Returns:
        class names, and (file, index of its class) for every file that is not hidden.

    Raises:
        InputError: no such folder, no class folders in it, a class without files or twice there.
    """
    mend = "lay images out as FOLDER/<class>/<image>"
    if not root.is_dir():
        raise InputError(str(root), "is no folder", mend)
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    if not folders:
        raise InputError(str(root), "holds no class folders", mend)
    labelled = []
    for label, folder in enumerate(folders):
        files = sorted(
            path for path in folder.rglob("*") if path.is_file() and not _hidden(path, root)
        )
        if not files:
            raise InputError(str(folder), "holds no images", mend)
        labelled += [(path, label) for path in files]
    names = tuple(folder.name.replace("-", " ").replace("_", " ") for folder in folders)
    for name in names:
        if names.count(name) > 1:
            raise InputError(str(root), f"has two folders for the class {name!r}", "join them")
    return names, labelled


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
