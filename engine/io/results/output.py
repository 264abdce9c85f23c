"""Where results go: a file with one writer at a time, or a stream; and in which format."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from medfocus.engine.io.results.journal import ResultRow, journal_path
from medfocus.engine.io.results.tables import csv_text, json_text, jsonl_text, most_probable
from medfocus.errors import FileError, InputError
from medfocus.files.atomic_write import atomic_write, is_stream
from medfocus.files.file_errors import unwritable
from medfocus.files.sole_writer import sole_writer

FORMATS = ("csv", "json", "jsonl")
STDOUT = Path("-")


def format_of(output: Path | None, chosen: str | None) -> str:
    """The format of the results: `chosen`, or what the output's suffix says.

    Args:
        output: a file; None or `STDOUT` for stdout, where "table" is the default.
        chosen: "table" or one of `FORMATS`; None if the user chose none.

    Raises:
        InputError: a file of no known format, or one that is a folder (`input.output_format`).
    """
    if output in (None, STDOUT):
        return chosen or "table"
    assert output is not None
    found = chosen or output.suffix[1:].lower()
    if found not in FORMATS:
        *all_but_last, last = FORMATS
        hint = f"end FILE in .{', .'.join(all_but_last)} or .{last}, or name one with --format"
        raise InputError(f"-o {output}", "has no known format", hint, code="input.output_format")
    if output.is_dir():
        raise InputError(f"-o {output}", "is a folder", "name a file", code="input.output_format")
    return found


def resumable(output: Path | None) -> Path | None:
    """The file that results are written to, links followed; None if they go to a stream.

    Only a file has a journal, with which an interrupted run resumes.
    """
    if output is None or output == STDOUT or is_stream(output):
        return None
    return Path(os.path.realpath(output)) if output.is_symlink() else output


@contextmanager
def sole_writer_of(output: Path | None) -> Iterator[None]:
    """Refuse if another process is writing these results.

    Raises:
        FileError: it is (`file.locked`), or nothing can be written there (`file.unwritable`).
    """
    if output is None:
        yield
        return
    with ExitStack() as stack:
        try:
            held = stack.enter_context(sole_writer(output.with_name(f".{output.name}.lock")))
        except OSError as error:
            raise unwritable(output, error) from error
        if not held:
            problem, hint = "is being written by another run", "wait, or choose another FILE"
            raise FileError(str(output), problem, hint, code="file.locked")
        yield


def write_results(
    rows: list[ResultRow],
    classes: Sequence[str],
    output: Path | None,
    kind: str,
    top_k: int | None = None,
) -> None:
    """Write results to stdout or a file, and remove the file's journal.

    Args:
        rows: one per image.
        classes: of the engine.
        output: a file or a stream; None or `STDOUT` for stdout.
        kind: one of `FORMATS`.
        top_k: write the probabilities of so many most probable classes only.

    Raises:
        FileError: they cannot be written (`file.unwritable`).
    """
    if kind == "csv":
        text = csv_text(rows, classes, top_k)
    else:
        limited = rows if top_k is None else [most_probable(row, top_k) for row in rows]
        text = json_text(limited) if kind == "json" else jsonl_text(limited)
    # A file name that is not UTF-8 is written with escapes, which are JSON's own as well.
    data = text.encode("utf-8", "backslashreplace")
    if output is None or output == STDOUT:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    atomic_write(output, data)
    if (file := resumable(output)) is not None:
        journal_path(file).unlink(missing_ok=True)
