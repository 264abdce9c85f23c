"""The files below a folder, links followed, without what is hidden or of no concern to anyone."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medfocus.files.file_errors import unreadable

# Folders that systems and programs leave in data: macOS's archives, network drives, file systems,
# notebooks.
LEFTOVERS = frozenset({"__MACOSX", "@eaDir", "lost+found", ".ipynb_checkpoints"})


@dataclass
class Walk:
    """A walk through one or several folders.

    Attributes:
        without: absolute paths of files and folders to leave out.
        leftovers: folders of `LEFTOVERS` that were met and left out.
        again: linked folders that led to a folder walked before: copies of it, or loops.
    """

    without: Collection[Path] = ()
    leftovers: list[Path] = field(default_factory=list)
    again: list[Path] = field(default_factory=list)
    _walked: set[tuple[int, int]] = field(default_factory=set)

    def files(self, *roots: Path) -> Iterator[Path]:
        """Everything below folders except folders and what is hidden, sorted by path.

        A linked folder is followed, but each folder is walked only once in the life of this
        object, under its own path rather than a link's where it has one below `roots`.

        Raises:
            FileError: a folder cannot be read (`file.unreadable`).
        """
        found: list[Path] = []
        folders = [root for root in roots if not root.is_symlink()]
        linked = [root for root in roots if root.is_symlink()]
        while folders or linked:
            folder = folders.pop() if folders else linked.pop(0)
            try:
                status = folder.stat()
                if (status.st_dev, status.st_ino) in self._walked:
                    if folder.is_symlink():
                        self.again.append(folder)
                    continue
                self._walked.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as entries:
                    ordered = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                raise unreadable(folder, error) from None
            for entry in ordered:
                path = folder / entry.name
                if entry.name in LEFTOVERS:
                    self.leftovers.append(path)
                elif entry.name.startswith(".") or path.absolute() in self.without:
                    continue
                elif not os.path.isdir(path):  # noqa: PTH112  (False, not an error, for loops)
                    found.append(path)
                else:
                    (linked if entry.is_symlink() else folders).append(path)
        yield from sorted(found)
