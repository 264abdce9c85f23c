"""`medfocus classify`: files, folders, patterns and archives to a table, CSV, JSON or JSON Lines.

Exit codes: 0 success; 1 some inputs failed; 2 wrong usage; 3 the engine's answers are wrong on this
machine; 4 input or output error, before the first image or in the middle of a run; 130 interrupted.
"""

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

import medfocus
from medfocus.command_line import command_parser, noting, print_error, run, whole_number
from medfocus.engine.artifact.manifest import Manifest, to_json
from medfocus.engine.backends.device import device_option
from medfocus.engine.backends.registry import NAMES
from medfocus.engine.classify_run import classify_files
from medfocus.engine.classify_series import classify_studies
from medfocus.engine.engine import Engine
from medfocus.engine.evidence.files import MASK_FORMATS, EvidenceFolders, make_folders
from medfocus.engine.io.inputs.boxes import FileBoxes, read_boxes
from medfocus.engine.io.inputs.files import Found, InputFile, find_files, read_list
from medfocus.engine.io.reading.limits import ReadingLimits
from medfocus.engine.io.reading.reader import FileReader
from medfocus.engine.io.results.journal import ResultRow, journal_path, open_journal
from medfocus.engine.io.results.output import (
    FORMATS,
    format_of,
    resumable,
    sole_writer_of,
    write_results,
)
from medfocus.engine.io.results.tables import table
from medfocus.errors import InputError, MedfocusError
from medfocus.exit_codes import MEANINGS, ExitCode
from medfocus.terminal import printable

_FAILURES_SHOWN = 10
_SKIPPED_SHOWN = 5


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command, as `medfocus.command_line.run` does."""
    return run("classify", parser(), _classify, argv, prog)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser(
        "classify",
        "Classify images with an engine directory, and say where the model was made to look.",
        """
medfocus classify engines/demo scans/ --overlays pictures/ --masks masks/
medfocus classify engines/demo 'study/*.dcm' study.zip -o results.jsonl
medfocus classify engines/demo study/ brain.nii.gz --group series
find scans -newer last.csv | medfocus classify engines/demo --from - --format csv
""",
        {code: MEANINGS[code] for code in (ExitCode.SOME_FAILED, ExitCode.REFUSED)},
    )
    add = parser.add_argument
    add("engine_directory", metavar="ENGINE_DIR", help="engine directory, from medfocus export")
    inputs = parser.add_mutually_exclusive_group(required=True)
    inputs.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="*",
        default=[],
        help="image, DICOM or NIfTI file, folder (searched with its subfolders), pattern in quotes,"
        " zip archive of images, or DICOMDIR",
    )
    inputs.add_argument(
        "--from",
        dest="listed",
        metavar="FILE",
        help="read the inputs from this file, one per line, or from stdin with - (this or INPUT is"
        " required)",
    )
    parser.add_argument(
        "--group",
        choices=("series",),
        help="series: one answer per DICOM series or NIfTI volume, joined from those of its slices"
        " (default: one per image)",
    )
    parser.add_argument(
        "--boxes",
        metavar="CSV",
        type=Path,
        help="read from this file what to look at: columns file,left,top,right,bottom, in pixels,"
        " file as results name it (default: the engine's own prompts for each image)",
    )
    output = parser.add_argument_group("output")
    add = output.add_argument
    add(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="write the results to this .csv, .json or .jsonl file; an interrupted run resumes when"
        " the same command is run again (default: -, which prints them)",
    )
    add(
        "--format",
        choices=("table", *FORMATS),
        help="of the results (default: as FILE's suffix says, or table without -o)",
    )
    add(
        "--overlays",
        metavar="DIR",
        type=Path,
        help="also write one PNG per image that shows its focus mask, or per series one of the"
        " slice that speaks most for its answer (default: none)",
    )
    add(
        "--masks",
        metavar="DIR",
        type=Path,
        help="also write one focus mask per image, as large as the image (default: none)",
    )
    add(
        "--mask-format",
        choices=MASK_FORMATS,
        default=MASK_FORMATS[0],
        help="of the masks: png is 0 and 255, npy a NumPy array of bool (default: %(default)s)",
    )
    add(
        "--top-k",
        metavar="K",
        type=whole_number(1),
        help="show the K most probable classes, and write their probabilities only (default: show"
        " one, write all)",
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
        "--read-seconds",
        metavar="S",
        type=float,
        default=ReadingLimits.seconds,
        help="limit on reading one image of a file, in seconds of processor time (default:"
        " %(default)g)",
    )
    add(
        "--trust-files",
        action="store_true",
        help="read files in the engine's own process, where one that crashes its decoder ends the"
        " run: a little faster (default: in processes of their own)",
    )
    add(
        "--backend",
        choices=("auto", *NAMES),
        default="auto",
        help="runtime; auto takes the fastest that is installed (default: auto)",
    )
    add(
        "--device",
        metavar="DEVICE",
        type=device_option,
        default="auto",
        help="cpu, cuda for the first GPU, cuda:1 for the second; auto takes CUDA where the backend"
        " can use it, otherwise the CPU (default: auto)",
    )
    return parser


def _classify(options: argparse.Namespace, console: Console) -> int:
    kind = format_of(options.output, options.format)
    output = resumable(options.output)
    evidence = EvidenceFolders(options.overlays, options.masks, options.mask_format)
    with ExitStack() as stack:
        stack.enter_context(sole_writer_of(output))
        with noting("no image was classified", KeyboardInterrupt):
            inputs = options.inputs if options.listed is None else read_list(options.listed)
            found = find_files(inputs, _not_inputs(options, output))
            _report_skipped(found, console, everything=options.verbose > 0)
            boxes = {} if options.boxes is None else read_boxes(options.boxes, found.files)
            engine = Engine.load(
                options.engine_directory,
                backend=options.backend,
                device=options.device,
                max_batch=options.batch_size,
                read_seconds=options.read_seconds,
                trust_files=options.trust_files,
            )
            _check_boxes(options.boxes, engine.manifest)
            make_folders(evidence, engine.manifest)
            journal = None
            if output is not None:
                identity = _identity(engine.manifest, options, boxes) | evidence.identity
                path = journal_path(output)
                journal = stack.enter_context(open_journal(path, identity, options.restart))
        note = "nothing was kept; with -o FILE, the same command resumes when it is run again"
        if journal is not None:
            note = "to resume, run the same command again"
        with noting(note, KeyboardInterrupt, MedfocusError, OSError):
            if options.group == "series":
                limits = ReadingLimits(options.read_seconds)
                reader = FileReader(limits, trust_files=options.trust_files)
                rows = classify_studies(
                    engine, found.files, reader, boxes, journal, evidence, console
                )
            else:
                rows = classify_files(engine, found.files, boxes, journal, evidence, console)
            if kind == "table":
                Console().print(table(rows, options.top_k or 1))
            else:
                write_results(rows, engine.manifest.classes, options.output, kind, options.top_k)
    return _summarise(rows, console)


def _not_inputs(options: argparse.Namespace, output: Path | None) -> list[Path]:
    """What this command writes, so that such a run can resume, and the table of boxes."""
    files = [output, options.output, journal_path(output)] if output else []
    return files + [path for path in (options.overlays, options.masks, options.boxes) if path]


def _report_skipped(found: Found, console: Console, everything: bool) -> None:
    """Say what was not read and why: a few names, or all of them."""
    skipped = [f"{name} ({kind})" if kind else name for name, kind in found.skipped.items()]
    for names, one, several in (
        (skipped, "file that is no image", "files that are no images"),
        (found.leftovers, "folder of another program", "folders of other programs"),
        (found.again, "link to a folder read before", "links to folders read before"),
    ):
        what = one if len(names) == 1 else several
        shown = [printable(str(name)) for name in names]
        if shown and everything:
            console.print(f"skipped {len(shown)} {what}:", *shown, sep="\n  ")
        elif shown:
            more = (
                [f"and {len(shown) - _SKIPPED_SHOWN} more"] if len(shown) > _SKIPPED_SHOWN else []
            )
            console.print(
                f"skipped {len(shown)} {what}: {', '.join(shown[:_SKIPPED_SHOWN] + more)}"
            )


def _identity(
    manifest: Manifest, options: argparse.Namespace, boxes: Mapping[InputFile, FileBoxes]
) -> ResultRow:
    """Everything that a file's result depends on besides the file."""
    listed = sorted((file.name, repr(own)) for file, own in boxes.items())
    return {
        "medfocus": medfocus.__version__,
        "manifest": hashlib.sha256(to_json(manifest).encode()).hexdigest(),
        "backend": options.backend,
        "device": options.device,
        "group": options.group,
        "boxes": hashlib.sha256(repr(listed).encode()).hexdigest(),
    }


def _check_boxes(boxes: Path | None, manifest: Manifest) -> None:
    if boxes is not None and manifest.focus.mode == "none":
        problem, hint = "this engine does not segment, so a box changes nothing", "leave it out"
        raise InputError("--boxes", problem, hint, code="input.mismatch")


def _summarise(rows: list[ResultRow], console: Console) -> int:
    failed = sum(row["error"] is not None for row in rows)
    console.print(f"{len(rows) - failed} classified, {failed} failed")
    failures = [each["error"] for row in rows for each in row.get("slices", [row]) if each["error"]]
    print_error(*failures[:_FAILURES_SHOWN])
    if len(failures) > _FAILURES_SHOWN:
        print_error(f"and {len(failures) - _FAILURES_SHOWN} more")
    return ExitCode.SOME_FAILED if failures else ExitCode.OK
