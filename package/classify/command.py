"""`medfocus classify`: files, folders, patterns and archives to a table, CSV, JSON or JSON Lines.

By an engine directory, or with --server by an engine of a service: the results are the same.

Exit codes: 0 success; 1 some inputs failed; 2 wrong usage; 3 the engine's answers are wrong on this
machine; 4 input or output error, before the first image or in the middle of a run; 130 interrupted.
"""

import argparse
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

import medfocus
from medfocus.classify.options import check, parser
from medfocus.command_line import noting, print_error, run
from medfocus.engine.artifact.manifest import Manifest, to_json
from medfocus.engine.classify_run import Classifier, classify_files
from medfocus.engine.classify_series import classify_studies
from medfocus.engine.engine import Engine
from medfocus.engine.evidence.files import EvidenceFolders, make_folders
from medfocus.engine.io.inputs.boxes import FileBoxes, read_boxes
from medfocus.engine.io.inputs.files import Found, InputFile, find_files, read_list
from medfocus.engine.io.reading.limits import ReadingLimits
from medfocus.engine.io.reading.reader import FileReader
from medfocus.engine.io.results.journal import ResultRow, journal_path, open_journal
from medfocus.engine.io.results.output import (
    format_of,
    resumable,
    sole_writer_of,
    write_results,
)
from medfocus.engine.io.results.tables import table
from medfocus.errors import InputError, MedfocusError
from medfocus.exit_codes import ExitCode
from medfocus.terminal import printable

_FAILURES_SHOWN = 10
_SKIPPED_SHOWN = 5


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command, as `medfocus.command_line.run` does."""
    return run("classify", parser(), _classify, argv, prog)


def _classify(options: argparse.Namespace, console: Console) -> int:
    check(options)
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
            engine = stack.enter_context(_opened(options))
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


@contextmanager
def _opened(options: argparse.Namespace) -> Iterator[Classifier]:
    """What answers: an engine here, or one of a service."""
    if options.server is None:
        yield Engine.load(
            options.engine_directory,
            backend=options.backend,
            device=options.device,
            max_batch=options.batch_size,
            read_seconds=options.read_seconds,
            trust_files=options.trust_files,
        )
        return
    # Not at the top: most runs need no HTTP.
    from medfocus.serving.client.connection import read_token
    from medfocus.serving.client.synchronous import Client

    token = None if options.token_file is None else read_token(options.token_file)
    with Client(options.server, options.engine, token=token) as client:
        client.pin()  # one version for all images
        yield client


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
