"""Writing an engine directory: whole or not at all, by one writer at a time."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from medfocus.engine.artifact.directory import EngineDirectory, read_engine_directory
from medfocus.engine.artifact.files import (
    digest_line,
    directory_error,
    file_record,
    os_errors_as,
    sibling,
)
from medfocus.engine.artifact.manifest import DIGEST_NAME, FILE_NAME, Manifest, to_json
from medfocus.files.atomic_write import flush_folder, flush_tree
from medfocus.files.sole_writer import sole_writer


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise an OSError of writing a file, or into a folder, as an EngineDirectoryError."""
    hint = "free space or allow writing, then export the engine again"
    with os_errors_as(path, "cannot be written", hint, "engine.unwritable"):
        yield


@contextmanager
def write_engine_directory(target: str | Path, *, force: bool = False) -> Iterator[Path]:
    """Write an engine directory whole or not at all.

        with write_engine_directory("engines/brain") as staging:
            ...                                # write the files below `staging`
            write_manifest(staging, manifest)  # last: records the files written

    `staging` is a hidden sibling of `target`. When the block ends, it is read back as any reader
    would, flushed to the disk and renamed; if the block raises, `target` is unchanged. With
    `force` an existing engine directory is first renamed to a hidden sibling, and deleted only
    once the new one is in its place. What a killed writer leaves behind is recovered by the next.

    Raises:
        EngineDirectoryError: `target` exists (without `force`), is not an engine directory, or is
            being written by another process; or what was written cannot be read or published.
    """
    target = Path(target).resolve()
    staging, former = sibling(target, "staging"), sibling(target, "former")
    with _sole_writer(target):
        _recover(target, staging, former)
        check_target(target, force)
        with writing(target):
            staging.mkdir()
        try:
            yield staging
            listed = {*read_engine_directory(staging).manifest.files, FILE_NAME, DIGEST_NAME}
            if unlisted := set(_list_files(staging)) - listed:
                problem = "was written after the manifest"
                raise directory_error(
                    staging / min(unlisted), problem, code="engine.file_not_listed"
                )
            _publish(target, staging, former)
        finally:
            _recover(target, staging, former)


def write_manifest(directory: Path, manifest: Manifest) -> Manifest:
    """Write `manifest` into `directory`, with the size and hash of all files there.

    Returns:
        The manifest with its `files` filled in.
    """
    manifest = unpublished(directory, manifest).manifest
    data = to_json(manifest).encode()
    for name, content in ((FILE_NAME, data), (DIGEST_NAME, digest_line(data))):
        with writing(directory / name):
            (directory / name).write_bytes(content)
    return manifest


def unpublished(directory: Path, manifest: Manifest) -> EngineDirectory:
    """The files written so far as an engine directory that only its writer can load.

    Its manifest, with the size and hash of all files in `directory`, is not written.
    """
    files = {name: file_record(directory / name) for name in _list_files(directory)}
    return EngineDirectory(directory, replace(manifest, files=files))


def check_target(target: Path, force: bool) -> None:
    """Refuse to overwrite what must be kept.

    Raises:
        EngineDirectoryError: `target` exists (without `force`), or is not an engine directory.
    """
    if target.exists() and not force:
        hint = "choose another place, or replace it with force"
        raise directory_error(target, "exists already", hint, code="engine.exists")
    replaceable = (
        not target.exists()
        or (target / FILE_NAME).is_file()
        or (target.is_dir() and not any(target.iterdir()))
    )
    if not replaceable:
        problem = "is not an engine directory, so it is kept"
        raise directory_error(
            target, problem, "choose another place", code="engine.not_replaceable"
        )


def _list_files(directory: Path) -> list[str]:
    paths = sorted(path for path in directory.rglob("*") if not path.is_dir())
    return [path.relative_to(directory).as_posix() for path in paths]


@contextmanager
def _sole_writer(target: Path) -> Iterator[None]:
    """Refuse if another process is writing `target`."""
    with ExitStack() as stack:
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            held = stack.enter_context(sole_writer(sibling(target, "lock")))
        if not held:
            problem, hint = "is being written by another process", "wait until it has ended"
            raise directory_error(target, problem, hint, code="engine.locked")
        yield


def _publish(target: Path, staging: Path, former: Path) -> None:
    with writing(target):
        flush_tree(staging)
        if target.exists():
            target.rename(former)
        staging.rename(target)
        flush_folder(target.parent)


def _recover(target: Path, staging: Path, former: Path) -> None:
    """Complete or undo a publication that was interrupted: the old engine whole, or the new."""
    if former.exists() and not target.exists():
        former.rename(target)
    if staging.exists():
        shutil.rmtree(staging)
    if former.exists():
        # Renamed first, so that a half-deleted one can never be taken for an engine to restore.
        former.rename(staging)
        shutil.rmtree(staging)
