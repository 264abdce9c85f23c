"""Writing an engine directory: whole or not at all, one writer at a time."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from medfocus.engine.artifact.directory import (
    EngineDirectory,
    digest_line,
    directory_error,
    explained,
    file_record,
    read_engine_directory,
    sibling,
)
from medfocus.engine.artifact.manifest import DIGEST_NAME, FILE_NAME, Manifest, to_json

WRITABLE = "Free space or allow writing, then export the engine again"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise an OSError of what is written into `folder` as EngineDirectoryError."""
    with explained(folder, "cannot be written", WRITABLE):
        yield


@contextmanager
def write_engine_directory(target: str | Path, *, force: bool = False) -> Iterator[Path]:
    """Write an engine directory whole or not at all.

        with write_engine_directory("engines/brain") as staging:
            ...                                # write the files below `staging`
            write_manifest(staging, manifest)  # last: records what lies there

    `staging` is a hidden sibling of `target`. When the block ends, it is read back as any reader
    would, flushed to the disk and renamed; when it raises, nothing has happened. With `force` an
    engine directory at `target` is first renamed to a hidden sibling and deleted only once the
    new one is in its place. What a killed writer leaves is mended by the next one.

    Raises:
        EngineDirectoryError: `target` exists (without `force`), or is no engine directory, or is
            being written by another process; or what was written cannot be read back or published.
    """
    target = Path(target).resolve()
    staging, former = sibling(target, "staging"), sibling(target, "former")
    with _sole_writer(target):
        _mend(target, staging, former)
        check_target(target, force)
        with writing(target):
            staging.mkdir()
        try:
            yield staging
            listed = {*read_engine_directory(staging).manifest.files, FILE_NAME, DIGEST_NAME}
            if unlisted := set(_list_files(staging)) - listed:
                raise directory_error(staging / min(unlisted), "was written after the manifest")
            _publish(target, staging, former)
        finally:
            _mend(target, staging, former)


def write_manifest(directory: Path, manifest: Manifest) -> Manifest:
    """Write `manifest` into `directory` with the size and hash of all that lies there.

    Returns:
        The manifest with its `files` filled in.
    """
    manifest = unpublished(directory, manifest).manifest
    data = to_json(manifest).encode()
    with writing(directory):
        (directory / FILE_NAME).write_bytes(data)
        (directory / DIGEST_NAME).write_bytes(digest_line(data))
    return manifest


def unpublished(directory: Path, manifest: Manifest) -> EngineDirectory:
    """The files written so far as an engine that its writer can load, and nobody else.

    The manifest, with the size and hash of all that lies in `directory`, is not written.
    """
    files = {name: file_record(directory / name) for name in _list_files(directory)}
    return EngineDirectory(directory, replace(manifest, files=files))


def _list_files(directory: Path) -> list[str]:
    paths = sorted(path for path in directory.rglob("*") if not path.is_dir())
    return [path.relative_to(directory).as_posix() for path in paths]


@contextmanager
def _sole_writer(target: Path) -> Iterator[None]:
    """Hold a lock that the system releases should this process die."""
    path = sibling(target, "lock")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("wb")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A writer that ended between our opening and our locking has removed that file.
            held = os.path.samestat(os.fstat(stream.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:
            raise directory_error(
                target, "is being written by another process", "Wait until it has ended"
            )
        try:
            yield
        finally:
            path.unlink()


def check_target(target: Path, force: bool) -> None:
    """Refuse to write where something is that must be kept.

    Raises:
        EngineDirectoryError: `target` exists (without `force`), or is no engine directory.
    """
    if target.exists() and not force:
        raise directory_error(
            target, "exists already", "Choose another place, or replace it with force"
        )
    replaceable = (
        not target.exists()
        or (target / FILE_NAME).is_file()
        or (target.is_dir() and not any(target.iterdir()))
    )
    if not replaceable:
        raise directory_error(
            target, "is not an engine directory, so it is kept", "Choose another place"
        )


def _publish(target: Path, staging: Path, former: Path) -> None:
    with explained(target, "could not be written", WRITABLE):
        # From the leaves up: an entry is durable once the directory that holds it is.
        for folder, _, files in os.walk(staging, topdown=False):
            for name in files:
                _flush(Path(folder, name))
            _flush(Path(folder))
        if target.exists():
            target.rename(former)
        staging.rename(target)
        _flush(target.parent)


def _mend(target: Path, staging: Path, former: Path) -> None:
    """Bring a publication that stopped anywhere to its end: the old engine whole, or the new."""
    if former.exists() and not target.exists():
        former.rename(target)
    if staging.exists():
        shutil.rmtree(staging)
    if former.exists():
        # As staging, so that one deleted by half can never be taken for an engine to restore.
        former.rename(staging)
        shutil.rmtree(staging)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
