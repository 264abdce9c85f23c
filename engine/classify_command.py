"""`medfocus-classify`: files, folders and patterns to a table, a CSV or a JSON file."""

import argparse
import hashlib
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import medfocus
from medfocus.engine.artifact.manifest import Manifest, to_json
from medfocus.engine.backends.registry import NAMES
from medfocus.engine.engine import Engine
from medfocus.engine.io.images import read_images
from medfocus.engine.io.input_files import find_files
from medfocus.engine.io.journal import (
    FileKey,
    ResultRow,
    journal_path,
    json_line,
    key_of,
    open_journal,
)
from medfocus.engine.io.results import csv_text, json_text, printable, table
from medfocus.engine.overlay import draw
from medfocus.engine.prediction import Prediction
from medfocus.engine.preprocess.geometry import Geometry
from medfocus.errors import InputError, MedfocusError

OK, SOME_FAILED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
_FAILURES_SHOWN = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0; 1 where an input failed; 2 for wrong usage, no input or no engine; 130 for Ctrl-C.
    """
    arguments = _parse(argv)
    report = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    try:
        files = find_files(arguments.inputs, _own_output(arguments))
        engine = Engine.load(
            arguments.engine_directory, backend=arguments.backend, device=arguments.device
        )
        _prepare_output(arguments)
    except MedfocusError as error:
        report.print(printable(str(error)))
        return UNUSABLE
    except KeyboardInterrupt:
        report.print("Interrupted before the first image")
        return INTERRUPTED
    try:
        rows = _classify_all(engine, files, arguments, report)
        _write_rows(rows, engine.manifest.classes, arguments)
    except (KeyboardInterrupt, MedfocusError, OSError) as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        report.print("Interrupted" if interrupted else printable(str(error)))
        if arguments.output:
            report.print("To go on where it stopped, give the same command again")
        else:
            report.print("Nothing is kept; with -o FILE the same command, given again, goes on")
        return INTERRUPTED if interrupted else SOME_FAILED
    return _summarise(rows, report)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="medfocus-classify", description="Classify images with an engine directory."
    )
    add = parser.add_argument
    add("engine_directory", metavar="ENGINE_DIR", help="what the export wrote")
    add("inputs", metavar="INPUT", nargs="+", help="a file, a folder, or a pattern in quotes")
    add("--format", choices=("table", "csv", "json"), help="default: FILE's ending, or table")
    add("-o", "--output", metavar="FILE", type=Path, help="write here; makes the run resumable")
    add("--overlays", metavar="DIR", type=Path, help="write a picture of each prediction here")
    add("--batch-size", metavar="N", type=_positive, help="default: the engine's largest bucket")
    add("--backend", choices=("auto", *NAMES), default="auto")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--restart", action="store_true", help="forget what an interrupted run has finished")
    arguments = parser.parse_args(argv)
    if arguments.format is None:
        arguments.format = arguments.output.suffix[1:].lower() if arguments.output else "table"
    if arguments.output and arguments.format not in ("csv", "json"):
        parser.error("-o FILE takes a name in .csv or .json, or --format csv or json")
    if arguments.output and arguments.output.is_dir():
        parser.error(f"-o {arguments.output} is a folder")
    return arguments


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _own_output(arguments: argparse.Namespace) -> list[Path]:
    """What this command writes, so that a run whose output lies among its inputs can resume."""
    output: Path | None = arguments.output
    files = [output, journal_path(output)] if output else []
    return files + ([arguments.overlays] if arguments.overlays else [])


def _classify_all(
    engine: Engine, files: list[Path], arguments: argparse.Namespace, report: Console
) -> list[ResultRow]:
    """The rows of all files, in their order; those that the journal holds are not run again."""
    keys = {file: key_of(file) for file in files}
    journal: IO[bytes] = io.BytesIO()
    finished: dict[FileKey, list[ResultRow]] = {}
    if arguments.output:
        identity = _identity(engine.manifest, arguments)
        path = journal_path(arguments.output)
        journal, finished = open_journal(path, identity, arguments.restart)
    rows = {file: finished[key] for file, key in keys.items() if key in finished}
    if rows:
        report.print(f"{len(rows)} of {len(files)} were finished before")
    waiting = [file for file in files if file not in rows]
    progress = Progress(
        TextColumn("classifying"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeRemainingColumn(),
        console=report,
    )
    with progress, journal:
        task = progress.add_task("", total=len(files), completed=len(rows), failed=0)
        failed = 0
        answered = engine.stream_each(waiting, batch_size=arguments.batch_size)
        for file, predictions in zip(waiting, answered, strict=True):
            rows[file] = [prediction.to_json() for prediction in predictions]
            if any(prediction.error for prediction in predictions):
                failed += 1  # and tried again when resumed: what was wrong may be mended
            else:
                if arguments.overlays:
                    _draw_overlays(arguments.overlays, file, predictions, engine.manifest)
                journal.write(json_line([keys[file], rows[file]]))
                journal.flush()
            progress.update(task, advance=1, failed=failed)
    return [row for file in files for row in rows[file]]


def _draw_overlays(
    folder: Path, file: Path, predictions: list[Prediction], manifest: Manifest
) -> None:
    classifier = manifest.preprocessing.classifier
    for image, prediction in zip(read_images(file), predictions, strict=True):
        height, width = image.pixels.shape[:2]
        seen = Geometry.fit(height, width, classifier.size, classifier.resize_mode)
        box = seen.top, seen.left, seen.bottom, seen.right
        draw(image.pixels, prediction, box).save(folder / overlay_name(prediction.source))


def overlay_name(source: str) -> str:
    """A file name for a source's picture: readable, and unique by a hash of the whole path."""
    digest = hashlib.sha256(os.fsencode(Path(source).absolute())).hexdigest()[:10]
    readable = re.sub(r"[^\w.-]+", "_", "-".join(Path(source).parts[-2:])).lstrip(".-_")
    short = readable.encode()[:120].decode(errors="ignore")  # a name has at most 255 bytes
    return f"{short}-{digest}.png"


def _identity(manifest: Manifest, arguments: argparse.Namespace) -> ResultRow:
    """All that a finished file's result depends on, besides the file."""
    return {
        "medfocus": medfocus.__version__,
        "manifest": hashlib.sha256(to_json(manifest).encode()).hexdigest(),
        "backend": arguments.backend,
        "device": arguments.device,
        "overlays": arguments.overlays and str(arguments.overlays.absolute()),
    }


def _prepare_output(arguments: argparse.Namespace) -> None:
    """Find out before the first image, and not after the last, that a result cannot be written."""
    try:
        if arguments.output:
            with journal_path(arguments.output).open("ab"):
                pass
        if arguments.overlays:
            arguments.overlays.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            str(error.filename), f"cannot be written: {error.strerror}", "Choose another place"
        ) from error


def _write_rows(
    rows: list[ResultRow], classes: Sequence[str], arguments: argparse.Namespace
) -> None:
    if arguments.format == "table":
        Console().print(table(rows))
        return
    text = csv_text(rows, classes) if arguments.format == "csv" else json_text(rows)
    # A file name that is not UTF-8 is written with escapes, which are JSON's own as well.
    data = text.encode("utf-8", "backslashreplace")
    output: Path | None = arguments.output
    if output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    temporary = output.with_name(f".{output.name}.tmp")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(output)
    journal_path(output).unlink(missing_ok=True)


def _summarise(rows: list[ResultRow], report: Console) -> int:
    failures = [row["error"] for row in rows if row["error"]]
    report.print(f"{len(rows) - len(failures)} classified, {len(failures)} failed")
    for failure in failures[:_FAILURES_SHOWN]:
        report.print(printable(failure))
    if len(failures) > _FAILURES_SHOWN:
        report.print(f"and {len(failures) - _FAILURES_SHOWN} more")
    return SOME_FAILED if failures else OK
