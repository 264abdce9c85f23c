"""Files that appear whole or not at all."""

import errno
import os
from pathlib import Path

from medfocus.errors import FileError

_NOT_SUPPORTED = (errno.EINVAL, errno.ENOTSUP)


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a hidden sibling file, flush it to the disk, and rename it to `path`.

    Missing folders are created. Whatever happens, `path` holds its former content or the new one.

    Args:
        path: of the file.
        content: text becomes UTF-8.

    Raises:
        FileError: it cannot be written (`file.unwritable`).
    """
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        _flush_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> FileError:
    """The error of a file that cannot be written."""
    problem, hint = f"cannot be written ({error.strerror})", "free space or choose another place"
    return FileError(str(path), problem, hint, code="file.unwritable")


def _flush_folder(folder: Path) -> None:
    """Make the rename last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:  # some network file systems cannot
            raise
    finally:
        os.close(descriptor)
