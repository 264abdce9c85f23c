"""`medfocus-classify`: files, folders and patterns to a table, a CSV or a JSON file."""

import argparse
import csv
import glob
import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import medfocus
from medfocus.engine.engine import Engine
from medfocus.engine.geometry import Geometry
from medfocus.engine.images import read_images
from medfocus.engine.manifest import Manifest, to_json
from medfocus.engine.overlay import draw
from medfocus.engine.prediction import Prediction
from medfocus.errors import InputError, MedfocusError

OK, SOME_FAILED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".dcm", ".dicom"}
_FAILURES_SHOWN = 10

Row = dict[str, Any]  # Prediction.to_json
Key = tuple[str, int, int]  # a file as it was classified: path, size, modification time in ns


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
        report.print(_printable(str(error)))
        return UNUSABLE
    except KeyboardInterrupt:
        report.print("Interrupted before the first image")
        return INTERRUPTED
    try:
        rows = _classify_all(engine, files, arguments, report)
        _write_rows(rows, engine.manifest.classes, arguments)
    except (KeyboardInterrupt, MedfocusError, OSError) as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        report.print("Interrupted" if interrupted else _printable(str(error)))
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
    add("--backend", choices=("auto", "torch"), default="auto")
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


# --- inputs


def find_files(inputs: Sequence[str], skip: Sequence[Path] = ()) -> list[Path]:
    """The files that inputs name, each once, in the order given; a folder's own are sorted.

    A file is taken whatever its name. Folders and patterns give what may be an image, and neither
    hidden files nor anything at or below `skip`.

    Raises:
        InputError: an input that gives no file.
    """
    found: dict[str, Path] = {}
    for text in inputs:
        path = Path(text)
        if path.is_file():
            files = [path]
        else:
            matches = glob.glob(text, recursive=True)  # noqa: PTH207  (Path's takes none from "/")
            roots = [path] if text and path.is_dir() else map(Path, matches)  # "" is no folder
            files = sorted({file for root in roots for file in _images_below(root, skip)})
        if not files:
            mend = "Give a file, a folder or a pattern of images, apart from where results go"
            raise InputError(text or "an empty INPUT", "gives no image", mend)
        for file in files:
            found.setdefault(os.path.abspath(file), file)  # noqa: PTH100  (links stay apart)
    return list(found.values())


def _images_below(root: Path, skip: Sequence[Path]) -> Iterator[Path]:
    for path in [root] if root.is_file() else root.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        own = any(path.absolute().is_relative_to(other.absolute()) for other in skip)
        if not hidden and not own and _may_be_image(path) and path.is_file():
            yield path


def _may_be_image(path: Path) -> bool:
    # DICOM files often have no ending, or are named by a UID, whose last number looks like one.
    # DICOMDIR is the index of a DICOM medium and holds no image.
    ending = path.suffix.lower()
    bare = (not ending or ending[1:].isdigit()) and path.name != "DICOMDIR"
    return bare or ending in IMAGE_ENDINGS


def _own_output(arguments: argparse.Namespace) -> list[Path]:
    """What this command writes, so that a run whose output lies among its inputs can resume."""
    output: Path | None = arguments.output
    files = [output, journal_path(output)] if output else []
    return files + ([arguments.overlays] if arguments.overlays else [])


# --- classification


def _classify_all(
    engine: Engine, files: list[Path], arguments: argparse.Namespace, report: Console
) -> list[Row]:
    """The rows of all files, in their order; those that the journal holds are not run again."""
    keys = {file: _key(file) for file in files}
    journal: IO[bytes] = io.BytesIO()
    finished: dict[Key, list[Row]] = {}
    if arguments.output:
        identity = _identity(engine.manifest, arguments)
        path = journal_path(arguments.output)
        journal, finished = open_journal(path, identity, arguments.restart)
    rows = {file: finished[key] for file, key in keys.items() if key in finished}
    if rows:
        report.print(f"{len(rows)} of {len(files)} were finished before")
    waiting = [file for file in files if file not in rows]
    size = arguments.batch_size or engine.manifest.buckets[-1]
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
        for start in range(0, len(waiting), size):
            batch = waiting[start : start + size]
            for file, predictions in _by_file(batch, engine.classify(batch)):
                rows[file] = [prediction.to_json() for prediction in predictions]
                if any(prediction.error for prediction in predictions):
                    failed += 1  # and tried again when resumed: what was wrong may be mended
                    continue
                if arguments.overlays:
                    _draw_overlays(arguments.overlays, file, predictions, engine.manifest)
                journal.write(_json_line([keys[file], rows[file]]))
            journal.flush()
            progress.update(task, advance=len(batch), failed=failed)
    return [row for file in files for row in rows[file]]


def _by_file(
    files: list[Path], predictions: list[Prediction]
) -> Iterator[tuple[Path, list[Prediction]]]:
    """Pair files with their predictions, of which a file of several frames has several."""
    start = 0
    for file in files:
        stop = start + 1
        if predictions[start].source == f"{file}#0":
            while stop < len(predictions) and predictions[stop].source == f"{file}#{stop - start}":
                stop += 1
        yield file, predictions[start:stop]
        start = stop


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
    readable = re.sub(r"[^\w.-]+", "_", Path(source).name).lstrip(".")
    short = readable.encode()[:120].decode(errors="ignore")  # a name has at most 255 bytes
    return f"{short}-{digest}.png"


# --- journal: one JSON line for the run, then one for each finished file


def journal_path(output: Path) -> Path:
    """Where a run that writes `output` keeps what is finished."""
    return output.with_name(f"{output.name}.partial")


def open_journal(
    path: Path, identity: Row, restart: bool = False
) -> tuple[IO[bytes], dict[Key, list[Row]]]:
    """Open a journal to append to, with the rows that it holds.

    It begins anew with `restart` or where it is of a run of another identity. A line that a kill
    has torn, and what follows it, is dropped.
    """
    stream = path.open("a+b")
    finished: dict[Key, list[Row]] = {}
    stream.seek(0)
    good = 0
    if not restart and stream.readline() == _json_line(identity):
        good = stream.tell()
        for line in stream:
            try:
                (source, size, modified), rows = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            finished[source, size, modified] = rows
            good += len(line)
    stream.truncate(good)
    if not good:
        stream.write(_json_line(identity))
        stream.flush()
    return stream, finished


def _identity(manifest: Manifest, arguments: argparse.Namespace) -> Row:
    """All that a finished file's result depends on, besides the file."""
    return {
        "medfocus": medfocus.__version__,
        "manifest": hashlib.sha256(to_json(manifest).encode()).hexdigest(),
        "backend": arguments.backend,
        "device": arguments.device,
        "overlays": arguments.overlays and str(arguments.overlays.absolute()),
    }


def _key(file: Path) -> Key:
    try:
        status = file.stat()
    except OSError:  # gone since it was found; the engine says so in its answer
        return str(file), -1, -1
    return str(file), status.st_size, status.st_mtime_ns


def _json_line(value: Any) -> bytes:
    return (json.dumps(value) + "\n").encode()


# --- output


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


def _write_rows(rows: list[Row], classes: Sequence[str], arguments: argparse.Namespace) -> None:
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


def json_text(rows: list[Row]) -> str:
    """A list with an object for each image, as `Prediction.to_json` gives it."""
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def csv_text(rows: list[Row], classes: Sequence[str]) -> str:
    """A line for each image, with a column for the probability of each class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"probability:{name}" for name in classes]
    head = ["source", "label", "probability", "focused", "focus_score"]
    writer.writerow([*head, *columns, "warnings", "error"])
    for row in rows:
        probabilities = row["probabilities"]
        writer.writerow(
            [
                row["source"],
                row["label"],
                probabilities.get(row["label"]),
                "true" if row["focused"] else "false",
                row["focus_score"],
                *(probabilities.get(name) for name in classes),
                "; ".join(row["warnings"]),
                row["error"],
            ]
        )
    return text.getvalue()


def table(rows: list[Row]) -> Table:
    """The rows for a terminal: long paths lose their beginning, long messages their end."""
    result = Table()
    for name in ("source", "label"):
        result.add_column(name, overflow="fold")
    for name in ("probability", "focused", "focus score"):
        result.add_column(name, justify="right", no_wrap=True)
    result.add_column("warnings, error", overflow="fold")
    for row in rows:
        probability, score, error = (
            row["probabilities"].get(row["label"]),
            row["focus_score"],
            row["error"],
        )
        source = _printable(row["source"])
        message = error.removeprefix(f"{row['source']}: ") if error else "; ".join(row["warnings"])
        cells = (
            source if len(source) <= 48 else f"…{source[-47:]}",
            _printable(row["label"] or ""),
            "" if probability is None else f"{probability:.1%}",
            "" if error else ("yes" if row["focused"] else "no"),
            "" if score is None else f"{score:.2f}",
            _printable(message if len(message) <= 60 else f"{message[:59]}…"),
        )
        result.add_row(*map(Text, cells), style="red" if error else None)
    return result


def _printable(text: str) -> str:
    """`text` without what could steer a terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def _summarise(rows: list[Row], report: Console) -> int:
    failures = [row["error"] for row in rows if row["error"]]
    report.print(f"{len(rows) - len(failures)} classified, {len(failures)} failed")
    for failure in failures[:_FAILURES_SHOWN]:
        report.print(_printable(failure))
    if len(failures) > _FAILURES_SHOWN:
        report.print(f"and {len(failures) - _FAILURES_SHOWN} more")
    return SOME_FAILED if failures else OK
