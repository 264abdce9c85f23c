"""Errors of files that cannot be read."""

from pathlib import Path

from medfocus.errors import FileError


def unreadable_file(path: Path, error: OSError) -> FileError:
    """The error to raise for a file or folder that the system could not read."""
    missing = isinstance(error, FileNotFoundError)
    return FileError(
        str(error.filename or path),
        f"cannot be read ({error.strerror})",
        "check the path and its permissions",
        code="file.missing" if missing else "file.unreadable",
    )
