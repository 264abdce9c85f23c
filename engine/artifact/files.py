"""What reading and writing an engine directory share: errors, hashes, names of sibling paths."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medfocus.engine.artifact.manifest import FILE_NAME, HINT, FileRecord
from medfocus.errors import EngineDirectoryError
from medfocus.files.file_errors import reason


def directory_error(
    path: Path, problem: str, hint: str = HINT, *, code: str | None = None
) -> EngineDirectoryError:
    """An error about a path of an engine directory; by default the hint is to export again."""
    return EngineDirectoryError(str(path), problem, hint, code=code)


@contextmanager
def os_errors_as(path: Path, problem: str, hint: str, code: str) -> Iterator[None]:
    """Raise an OSError of the block as an EngineDirectoryError about `path`."""
    try:
        yield
    except OSError as error:
        raise directory_error(path, f"{problem}: {reason(error)}", hint, code=code) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise an OSError of reading `path` as an EngineDirectoryError."""
    with os_errors_as(path, "cannot be read", "allow reading it", "engine.unreadable"):
        yield


def file_record(path: Path) -> FileRecord:
    """The size and SHA-256 of a file, read in constant memory."""
    with reading(path), path.open("rb") as stream:
        return FileRecord(hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell())


def digest_line(manifest: bytes) -> bytes:
    """What `sha256sum manifest.json` prints, and `sha256sum --check` reads."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {FILE_NAME}\n".encode()


def sibling(target: Path, role: str) -> Path:
    """A hidden path next to `target`, on the same file system."""
    return target.parent / f".{target.name}.{role}"
