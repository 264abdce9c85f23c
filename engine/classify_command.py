"""`medfocus classify`: files, folders and patterns to a table, a CSV or a JSON file.

Exit codes: 0 success; 1 some inputs failed; 2 wrong usage; 4 input or output error, before the
first image or in the middle of a run; 130 interrupted.
"""

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
from medfocus.atomic_write import atomic_write, unwritable
from medfocus.command_line import command_parser, noting, print_error, run, whole_number
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
from medfocus.engine.io.results import csv_text, json_text, table
from medfocus.engine.overlay import draw
from medfocus.engine.prediction import Prediction
from medfocus.engine.preprocess.geometry import Geometry
from medfocus.errors import InputError, MedfocusError
from medfocus.exit_codes import MEANINGS, ExitCode

_FAILURES_SHOWN = 10


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command, as `medfocus.command_line.run` does."""
    return run("classify", parser(), _classify, argv, prog)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser(
        "classify",
        "Classify images with an engine directory, and say where the model was made to look.",
        """
medfocus classify engines/demo scans/ --overlays pictures/
medfocus classify engines/demo 'study/*.dcm' --format json -o results.json
""",
        {ExitCode.SOME_FAILED: MEANINGS[ExitCode.SOME_FAILED]},
    )
    add = parser.add_argument
    add("engine_directory", metavar="ENGINE_DIR", help="engine directory, from medfocus export")
    add(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="image or DICOM file, folder (searched with its subfolders), or pattern in quotes",
    )
    output = parser.add_argument_group("output")
    add = output.add_argument
    add(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="write the results to this .csv or .json file; an interrupted run resumes when the"
        " same command is run again (default: print them)",
    )
    add(
        "--format",
        choices=("table", "csv", "json"),
        help="of the results (default: as FILE's suffix says, or table without -o)",
    )
    add(
        "--overlays",
        metavar="DIR",
        type=Path,
        help="also write one PNG per image that shows its focus mask (default: none)",
    )
    add(
        "--restart",
        action="store_true",
        help="with -o: discard the results of an interrupted run (default: resume it)",
    )
    execution = parser.add_argument_group("execution")
    add = execution.add_argument
    add(
        "--batch-size",
        metavar="N",
        type=whole_number(1),
        help="images per batch (default: the largest that the engine was exported for)",
    )
    add(
        "--backend",
        choices=("auto", *NAMES),
        default="auto",
        help="runtime; auto takes the fastest that is installed (default: auto)",
    )
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto takes CUDA where the backend can use it, otherwise the CPU (default: auto)",
    )
    return parser


def _classify(options: argparse.Namespace, console: Console) -> int:
    _choose_format(options)
    with noting("no image was classified", KeyboardInterrupt):
        files = find_files(options.inputs, _own_output(options))
        engine = Engine.load(
            options.engine_directory, backend=options.backend, device=options.device
        )
        _prepare_output(options)
    note = "nothing was kept; with -o FILE, the same command resumes when it is run again"
    if options.output:
        note = "to resume, run the same command again"
    with noting(note, KeyboardInterrupt, MedfocusError, OSError):
        rows = _classify_all(engine, files, options, console)
        _write_rows(rows, engine.manifest.classes, options)
    return _summarise(rows, console)


def _choose_format(options: argparse.Namespace) -> None:
    """Set the format that FILE's suffix names, if none was given."""
    output: Path | None = options.output
    if options.format is None:
        options.format = output.suffix[1:].lower() if output else "table"
    if output and options.format not in ("csv", "json"):
        hint = "end FILE in .csv or .json, or give --format csv or --format json"
        raise InputError(f"-o {output}", "has no known format", hint, code="input.output_format")
    if output and output.is_dir():
        raise InputError(f"-o {output}", "is a folder", "name a file", code="input.output_format")


def _own_output(options: argparse.Namespace) -> list[Path]:
    """What this command writes: not an input, so that such a run can resume."""
    output: Path | None = options.output
    files = [output, journal_path(output)] if output else []
    return files + ([options.overlays] if options.overlays else [])


def _classify_all(
    engine: Engine, files: list[Path], options: argparse.Namespace, console: Console
) -> list[ResultRow]:
    """The rows of all files, in their order; files in the journal are not classified again."""
    keys = {file: key_of(file) for file in files}
    journal: IO[bytes] = io.BytesIO()
    finished: dict[FileKey, list[ResultRow]] = {}
    if options.output:
        identity = _identity(engine.manifest, options)
        path = journal_path(options.output)
        journal, finished = open_journal(path, identity, options.restart)
    rows = {file: finished[key] for file, key in keys.items() if key in finished}
    if rows:
        console.print(f"resuming: {len(rows)} of {len(files)} files are already classified")
    pending = [file for file in files if file not in rows]
    progress = Progress(
        TextColumn("classifying"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeRemainingColumn(),
        console=console,
    )
    with progress, journal:
        task = progress.add_task("", total=len(files), completed=len(rows), failed=0)
        failed = 0
        answers = engine.stream_each(pending, batch_size=options.batch_size)
        for file, predictions in zip(pending, answers, strict=True):
            rows[file] = [prediction.to_json() for prediction in predictions]
            if any(prediction.error for prediction in predictions):
                failed += 1  # not in the journal: tried again when the run is resumed
            else:
                if options.overlays:
                    _draw_overlays(options.overlays, file, predictions, engine.manifest)
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
        seen = Geometry.fit(
            height, width, classifier.size, classifier.resize_mode, image.pixel_aspect
        )
        box = seen.top, seen.left, seen.bottom, seen.right
        draw(image.pixels, prediction, box).save(folder / overlay_name(prediction.source))


def overlay_name(source: str) -> str:
    """A file name for a source's picture: readable, and unique by a hash of the whole path."""
    digest = hashlib.sha256(os.fsencode(Path(source).absolute())).hexdigest()[:10]
    readable = re.sub(r"[^\w.-]+", "_", "-".join(Path(source).parts[-2:])).lstrip(".-_")
    short = readable.encode()[:120].decode(errors="ignore")  # a name has at most 255 bytes
    return f"{short}-{digest}.png"


def _identity(manifest: Manifest, options: argparse.Namespace) -> ResultRow:
    """Everything that a file's result depends on besides the file."""
    return {
        "medfocus": medfocus.__version__,
        "manifest": hashlib.sha256(to_json(manifest).encode()).hexdigest(),
        "backend": options.backend,
        "device": options.device,
        "overlays": options.overlays and str(options.overlays.absolute()),
    }


def _prepare_output(options: argparse.Namespace) -> None:
    """Fail before the first image, not after the last, if the results cannot be written."""
    try:
        if options.output:
            with journal_path(options.output).open("ab"):
                pass
        if options.overlays:
            options.overlays.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(Path(error.filename), error) from error


def _write_rows(rows: list[ResultRow], classes: Sequence[str], options: argparse.Namespace) -> None:
    if options.format == "table":
        Console().print(table(rows))
        return
    text = csv_text(rows, classes) if options.format == "csv" else json_text(rows)
    # A file name that is not UTF-8 is written with escapes, which are JSON's own as well.
    data = text.encode("utf-8", "backslashreplace")
    output: Path | None = options.output
    if output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    atomic_write(output, data)
    journal_path(output).unlink(missing_ok=True)


def _summarise(rows: list[ResultRow], console: Console) -> int:
    failures = [row["error"] for row in rows if row["error"]]
    console.print(f"{len(rows) - len(failures)} classified, {len(failures)} failed")
    print_error(*failures[:_FAILURES_SHOWN])
    if len(failures) > _FAILURES_SHOWN:
        print_error(f"and {len(failures) - _FAILURES_SHOWN} more")
    return ExitCode.SOME_FAILED if failures else ExitCode.OK
