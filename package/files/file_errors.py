"""The errors of files that the system does not read or write, each with the file's name."""

import os
from pathlib import Path

from medfocus.errors import FileError


def unreadable(path: Path, error: OSError) -> FileError:
    """The error of a file or folder that cannot be read (`file.missing`, `file.unreadable`)."""
    missing = isinstance(error, FileNotFoundError)
    problem, hint = f"cannot be read ({reason(error)})", "check the path and its permissions"
    code = "file.missing" if missing else "file.unreadable"
    return FileError(_name(path, error), problem, hint, code=code)


def unwritable(path: Path, error: OSError) -> FileError:
    """The error of a file that cannot be written (`file.unwritable`)."""
    problem, hint = f"cannot be written ({reason(error)})", "free space or choose another place"
    return FileError(str(path), problem, hint, code="file.unwritable")


def reason(error: OSError) -> str:
    """Why the system refuses, in its own words; the OSErrors of libraries may have no number."""
    return "no reason given" if error.errno is None else os.strerror(error.errno)


def _name(path: Path, error: OSError) -> str:
    return os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(path)
