"""Classifies the inputs of a command as studies: headers of all first, then one after the other."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.classify_run import Classifier, answers, progress_bar
from medfocus.engine.engine import MOST_THREADS
from medfocus.engine.evidence.files import EvidenceFolders, write_masks, write_overlay
from medfocus.engine.io.inputs.boxes import FileBoxes
from medfocus.engine.io.inputs.files import InputFile
from medfocus.engine.io.inputs.staging import staging
from medfocus.engine.io.reading.reader import FileReader, read_image
from medfocus.engine.io.results.journal import FileKey, Journal, ResultRow, key_of
from medfocus.engine.io.volumes.parts import WHOLE, Part
from medfocus.engine.prediction import Prediction
from medfocus.engine.series.answers import reading_order, series_predictions
from medfocus.engine.series.grouping import Study, group_parts
from medfocus.engine.series.prediction import SeriesPrediction
from medfocus.engine.series.reading import parts_of
from medfocus.errors import ImageError

_AHEAD = 4  # files per thread that are unpacked before their headers are read


def classify_studies(
    engine: Classifier,
    files: Sequence[InputFile],
    reader: FileReader,
    boxes: Mapping[InputFile, FileBoxes],
    journal: Journal | None,
    evidence: EvidenceFolders,
    console: Console,
) -> list[ResultRow]:
    """The rows of all studies, in the order in which the files begin them.

    Args:
        engine: classifies them.
        files: from `find_files`.
        reader: reads their headers, and is closed then.
        boxes: from `read_boxes`, for some of the files.
        journal: studies in it are not classified again; the others are added, except those with a
            slice that failed.
        evidence: which files to write: one mask per slice, and one picture per study, of the slice
            that speaks most for its label.
        console: shows the progress.

    Raises:
        FileError: the journal, a picture or a mask cannot be written.
        DeviceError: the backend failed.
    """
    parts = _headers(files, reader, console)
    studies = group_parts([file.name for file in files], parts)
    keys = [_key_of(study, files) for study in studies]
    finished = {} if journal is None else journal.finished
    rows = {number: finished[key][0] for number, key in enumerate(keys) if key in finished}
    if rows:
        console.print(f"resuming: {len(rows)} of {len(studies)} studies are already classified")
    pending = [number for number in range(len(studies)) if number not in rows]
    left = [studies[number] for number in pending]
    with progress_bar("classifying studies", console) as progress:
        task = progress.add_task("", total=len(studies), completed=len(rows), failed=0)
        failed = 0
        answered = _answers(engine, files, boxes, left, bool(evidence.wanted))
        predictions = series_predictions(left, answered, engine.manifest.join)
        for number, prediction in zip(pending, predictions, strict=True):
            rows[number] = prediction.to_dict()
            write_masks(evidence, [each for each in prediction.slices if each.error is None])
            if evidence.overlays is not None:
                _draw(evidence.overlays, prediction, files, engine.manifest)
            if any(each.error for each in prediction.slices):
                failed += 1
            elif journal is not None:
                journal.add(keys[number], [rows[number]])
            progress.update(task, advance=1, failed=failed)
    return [rows[number] for number in range(len(studies))]


def _headers(files: Sequence[InputFile], reader: FileReader, console: Console) -> list[list[Part]]:
    """The parts of each file, read by threads; a file's copy from an archive lasts that long."""
    threads = min(len(os.sched_getaffinity(0)), MOST_THREADS)
    found: list[Future[list[Part]]] = []
    under_way: deque[Future[list[Part]]] = deque()
    try:
        with (
            progress_bar("reading headers", console) as progress,
            staging() as staged,
            ThreadPoolExecutor(threads, "medfocus-headers") as pool,
        ):
            task = progress.add_task("", total=len(files), failed=0)
            try:
                for file in files:
                    found.append(pool.submit(_parts, file, _staged(staged, file), reader))
                    under_way.append(found[-1])
                    if len(under_way) > threads * _AHEAD:
                        under_way.popleft().result()
                        progress.update(task, advance=1)
                while under_way:
                    under_way.popleft().result()
                    progress.update(task, advance=1)
            except BaseException:
                reader.stop()
                raise
    finally:
        reader.close()
    return [future.result() for future in found]


def _staged(staged: Callable[[InputFile], Path], file: InputFile) -> Path | None:
    try:
        return staged(file)
    except ImageError:  # again when it is classified
        return None


def _parts(file: InputFile, path: Path | None, reader: FileReader) -> list[Part]:
    if path is None:
        return [WHOLE]
    try:
        return parts_of(path, file.name, reader)
    finally:
        if file.member is not None:
            path.unlink(missing_ok=True)


def _answers(
    engine: Classifier,
    files: Sequence[InputFile],
    boxes: Mapping[InputFile, FileBoxes],
    studies: Sequence[Study],
    keep_masks: bool,
) -> Iterator[tuple[int, list[Prediction]]]:
    order = reading_order(studies)
    answered = answers(engine, [files[number] for number in order], boxes, keep_masks)
    for number, answer in zip(order, answered, strict=True):
        yield number, answer.predictions


def _key_of(study: Study, files: Sequence[InputFile]) -> FileKey:
    """A key that changes if one of the study's files does, or its slices are others."""
    keys = [key_of(files[unit.file].path, files[unit.file].name) for unit in study.units]
    units = [[*key, unit.part.first] for key, unit in zip(keys, study.units, strict=True)]
    text = json.dumps([study.source, study.notices, units])
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return digest, sum(size for _, size, _ in keys), max(modified for *_, modified in keys)


def _draw(
    folder: Path, prediction: SeriesPrediction, files: Sequence[InputFile], manifest: Manifest
) -> None:
    """The picture of a study's evidence, with the study's own label and probabilities."""
    evidence = prediction.evidence_slice
    if evidence is None or prediction.evidence is None:
        return
    named = {file.name: file for file in files}
    name, _, frame = evidence.source.rpartition("#")
    file, index = (
        (named[evidence.source], 0) if evidence.source in named else (named[name], int(frame))
    )
    place = f"slice {prediction.evidence + 1} of {len(prediction.slices)}"
    shown = replace(
        evidence,
        source=f"{prediction.source}, {place}",
        label=prediction.label,
        probabilities=prediction.probabilities,
    )
    with staging() as staged:
        image = read_image(staged(file), evidence.source, index)
    write_overlay(folder, image, shown, manifest, prediction.source)
