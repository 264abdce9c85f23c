"""Classifies the inputs of a command: resumed from a journal, archives inflated file by file."""

import hashlib
import io
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.engine import Engine
from medfocus.engine.io.images import SourceImage
from medfocus.engine.io.inputs.files import InputFile
from medfocus.engine.io.inputs.staging import staging
from medfocus.engine.io.reading.reader import read_images
from medfocus.engine.io.results.journal import Journal, ResultRow, key_of
from medfocus.engine.overlay import draw
from medfocus.engine.prediction import Prediction
from medfocus.engine.preprocess.geometry import Geometry
from medfocus.errors import ImageError
from medfocus.files.atomic_write import atomic_write


class Answer(NamedTuple):
    """A file, the path that it was read from (None if that failed), and its predictions."""

    file: InputFile
    path: Path | None
    predictions: list[Prediction]


def classify_files(
    engine: Engine,
    files: Sequence[InputFile],
    journal: Journal | None,
    overlays: Path | None,
    console: Console,
) -> list[ResultRow]:
    """The rows of all files, in their order.

    Args:
        engine: classifies them.
        files: from `find_files`.
        journal: files in it are not classified again; the others are added, except failed ones,
            which are tried again when the run is resumed.
        overlays: folder for one picture per image.
        console: shows the progress.

    Raises:
        FileError: the journal or a picture cannot be written.
        DeviceError: the backend failed.
    """
    keys = {file: key_of(file.path, file.name) for file in files}
    finished = {} if journal is None else journal.finished
    rows = {file: finished[key] for file, key in keys.items() if key in finished}
    if rows:
        console.print(f"resuming: {len(rows)} of {len(files)} files are already classified")
    pending = [file for file in files if file not in rows]
    with progress_bar("classifying", console) as progress:
        task = progress.add_task("", total=len(files), completed=len(rows), failed=0)
        failed = 0
        for file, path, predictions in answers(engine, pending):
            rows[file] = [prediction.to_dict() for prediction in predictions]
            if any(prediction.error for prediction in predictions):
                failed += 1
            else:
                if overlays is not None and path is not None:
                    _draw_overlays(overlays, path, predictions, engine.manifest)
                if journal is not None:
                    journal.add(keys[file], rows[file])
            progress.update(task, advance=1, failed=failed)
    return [row for file in files for row in rows[file]]


def progress_bar(doing: str, console: Console) -> Progress:
    """A bar that also counts what has failed, as the field `failed`."""
    return Progress(
        TextColumn(doing),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeRemainingColumn(),
        console=console,
    )


def answers(engine: Engine, files: Iterable[InputFile]) -> Iterator[Answer]:
    """The answers in the order of the files; a file's copy from an archive lasts that long."""
    asked: deque[Answer] = deque()

    with staging() as staged:

        def sources() -> Iterator[Path]:
            for file in files:
                try:
                    path = staged(file)
                except ImageError as error:
                    asked.append(Answer(file, None, [_failed(file.name, error)]))
                else:
                    asked.append(Answer(file, path, []))
                    yield path

        for predictions in engine.stream_each(sources()):
            while asked[0].path is None:
                yield asked.popleft()
            file, path, _ = asked.popleft()
            assert path is not None
            if file.member is None:
                yield Answer(file, path, predictions)
            else:
                renamed = [_renamed(each, str(path), file.name) for each in predictions]
                yield Answer(file, path, renamed)
                path.unlink(missing_ok=True)
        yield from asked


def _failed(name: str, error: ImageError) -> Prediction:
    return Prediction(
        source=name,
        label=None,
        probabilities={},
        focused=False,
        focus_score=None,
        focus_logits=None,
        image_size=None,
        patch_focus=None,
        error=error,
    )


def _renamed(prediction: Prediction, path: str, name: str) -> Prediction:
    """A prediction of an archive's file, with that file's own name."""
    error = prediction.error
    if error is not None:
        item, problem = (text.replace(path, name) for text in (error.item, error.problem))
        error = type(error)(item, problem, error.hint, code=error.code)
    return replace(prediction, source=name + prediction.source.removeprefix(path), error=error)


def _draw_overlays(
    folder: Path, path: Path, predictions: list[Prediction], manifest: Manifest
) -> None:
    for image, prediction in zip(read_images(path), predictions, strict=True):
        write_overlay(folder, image, prediction, manifest, prediction.source)


def write_overlay(
    folder: Path, image: SourceImage, prediction: Prediction, manifest: Manifest, name: str
) -> None:
    """Write the picture of a prediction for an image, under `overlay_name` of `name`."""
    classifier = manifest.preprocessing.classifier
    height, width = image.pixels.shape[:2]
    seen = Geometry.fit(height, width, classifier.size, classifier.resize_mode, image.pixel_aspect)
    box = seen.top, seen.left, seen.bottom, seen.right
    stream = io.BytesIO()
    draw(image.pixels, prediction, box).save(stream, "PNG")
    atomic_write(folder / overlay_name(name), stream.getvalue())


def overlay_name(source: str) -> str:
    """A file name for a source's picture: readable, and unique by a hash of the whole path."""
    digest = hashlib.sha256(os.fsencode(Path(source).absolute())).hexdigest()[:10]
    readable = re.sub(r"[^\w.-]+", "_", "-".join(Path(source).parts[-2:])).lstrip(".-_")
    short = readable.encode()[:120].decode(errors="ignore")  # a name has at most 255 bytes
    return f"{short}-{digest}.png"
