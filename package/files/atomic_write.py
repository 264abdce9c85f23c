"""Files that appear whole or not at all."""

import errno
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from medfocus.files.file_errors import unwritable

_NOT_SUPPORTED = (errno.EINVAL, errno.ENOTSUP)
_OPEN_FILES = ("/dev/fd/", "/dev/std", "/proc/")  # another name of what this process has open


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a hidden sibling file, flush it to the disk, and rename it to `path`.

    Missing folders are created. Whatever happens, `path` holds its former content or the new one. A
    file keeps its mode and its owner, and a link remains one to the file that is written. What is
    no file (a pipe, /dev/stdout) is written to.

    Args:
        path: of the file.
        content: text becomes UTF-8.

    Raises:
        FileError: it cannot be written (`file.unwritable`).
    """
    atomic_write_all({path: content})


def atomic_write_all(files: Mapping[Path, str | bytes]) -> None:
    """Write files that belong together as `atomic_write` does: all are whole before one is renamed.

    They are renamed in their order, so that the last one is new only if all others are.

    Raises:
        FileError: one cannot be written (`file.unwritable`).
    """
    parts: list[tuple[Path, Path]] = []
    path = Path()
    try:
        try:
            for path, content in files.items():
                data = content.encode() if isinstance(content, str) else content
                if is_stream(path):
                    with path.open("ab") as stream:
                        stream.write(data)
                    continue
                target = _link_target(path)
                _make_folder(target.parent)
                part = target.with_name(f".{target.name}.{token_hex(4)}.part")
                parts.append((part, target))
                _write(part, data, target)
            for part, path in parts:
                part.replace(path)
            for path in {target.parent for _, target in parts}:
                flush_folder(path)
        finally:
            for part, _ in parts:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def is_stream(path: Path) -> bool:
    """Whether it is no file of its own: a pipe, a device, or a name of an open file."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    opened = str(path.absolute()).startswith(_OPEN_FILES)
    return opened or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _link_target(path: Path) -> Path:
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return target


def _write(part: Path, data: bytes, target: Path) -> None:
    """Write `part` with the mode and owner of `target`, if that exists."""
    former = target.stat() if target.exists() else None
    mode = 0o666 if former is None else 0o600  # never more open than the former, not for a moment
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(handle, "wb") as stream:  # noqa: PTH123  (a descriptor)
        if former is not None:
            with suppress(OSError):  # not ours to give away, or a file system without modes
                os.fchmod(handle, stat.S_IMODE(former.st_mode))
                os.fchown(handle, former.st_uid, former.st_gid)
        stream.write(data)
        stream.flush()
        os.fsync(handle)


def _make_folder(folder: Path) -> None:
    """Make a folder and those that it is in, each in a way that lasts."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    flush_folder(folder.parent)


def flush_tree(folder: Path) -> None:
    """Make all files below a folder last, and the folders that they are in.

    From the leaves up: an entry is durable once the folder that holds it is.

    Raises:
        OSError: the disk fails.
    """
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            with Path(place, name).open("rb") as stream:
                os.fsync(stream.fileno())
        flush_folder(Path(place))


def flush_folder(folder: Path) -> None:
    """Make a rename in a folder last.

    Raises:
        OSError: the disk fails.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:  # some network file systems cannot
            raise
    finally:
        os.close(descriptor)
