"""Classifies the inputs of a command: resumed from a journal, archives inflated file by file."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.evidence.files import EvidenceFolders, write_evidence
from medfocus.engine.io.images import ImageSource
from medfocus.engine.io.inputs.boxes import FileBoxes
from medfocus.engine.io.inputs.files import InputFile
from medfocus.engine.io.inputs.staging import staging
from medfocus.engine.io.results.journal import Journal, ResultRow, key_of
from medfocus.engine.prediction import Prediction, failed_prediction
from medfocus.engine.preprocess.prompts import Box, PerFrame
from medfocus.errors import ImageError


class Classifier(Protocol):
    """What answers: an `Engine`, or one of a service."""

    @property
    def manifest(self) -> Manifest:
        """Of the engine."""

    def stream_each(
        self,
        sources: Iterable[ImageSource],
        *,
        boxes: Iterable[PerFrame[Box] | None] | None = None,
        keep_masks: bool = True,
    ) -> Iterator[list[Prediction]]:
        """See `Engine.stream_each`."""


class Answer(NamedTuple):
    """A file, the path that it was read from (None if that failed), and its predictions."""

    file: InputFile
    path: Path | None
    predictions: list[Prediction]


def classify_files(
    engine: Classifier,
    files: Sequence[InputFile],
    boxes: Mapping[InputFile, FileBoxes],
    journal: Journal | None,
    evidence: EvidenceFolders,
    console: Console,
) -> list[ResultRow]:
    """The rows of all files, in their order.

    Args:
        engine: classifies them.
        files: from `find_files`.
        boxes: from `read_boxes`, for some of the files.
        journal: files in it are not classified again; the others are added, except failed ones,
            which are tried again when the run is resumed.
        evidence: which files to write for each image.
        console: shows the progress.

    Raises:
        FileError: the journal, a picture or a mask cannot be written.
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
        for file, path, predictions in answers(engine, pending, boxes, bool(evidence.wanted)):
            rows[file] = [prediction.to_dict() for prediction in predictions]
            if any(prediction.error for prediction in predictions):
                failed += 1
            else:
                if path is not None:
                    write_evidence(evidence, path, predictions, engine.manifest)
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


def answers(
    engine: Classifier,
    files: Sequence[InputFile],
    boxes: Mapping[InputFile, FileBoxes],
    keep_masks: bool,
) -> Iterator[Answer]:
    """The answers in the order of the files; a file's copy from an archive lasts that long."""
    asked: deque[Answer] = deque()
    prompts: deque[FileBoxes | None] = deque()

    with staging() as staged:

        def sources() -> Iterator[Path]:
            for file in files:
                try:
                    path = staged(file)
                except ImageError as error:
                    asked.append(Answer(file, None, [failed_prediction(file.name, error)]))
                else:
                    asked.append(Answer(file, path, []))
                    prompts.append(boxes.get(file))
                    yield path

        def prompted() -> Iterator[FileBoxes | None]:
            while prompts:  # one per source, appended just before that is yielded
                yield prompts.popleft()

        for predictions in engine.stream_each(sources(), boxes=prompted(), keep_masks=keep_masks):
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


def _renamed(prediction: Prediction, path: str, name: str) -> Prediction:
    """A prediction of an archive's file, with that file's own name."""
    error = prediction.error
    if error is not None:
        item, problem = (text.replace(path, name) for text in (error.item, error.problem))
        error = type(error)(item, problem, error.hint, code=error.code)
    return replace(prediction, source=name + prediction.source.removeprefix(path), error=error)
