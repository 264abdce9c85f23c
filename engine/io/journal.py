"""What a run has finished, kept on the disk so that it can go on after an interrupt.

One JSON line says which run it is, then one stands for each finished file.
"""

import json
from pathlib import Path
from typing import IO, Any

ResultRow = dict[str, Any]  # Prediction.to_json
FileKey = tuple[str, int, int]  # a file as it was classified: path, size, modification time in ns


def journal_path(output: Path) -> Path:
    """Where a run that writes `output` keeps what is finished."""
    return output.with_name(f"{output.name}.partial")


def open_journal(
    path: Path, identity: ResultRow, restart: bool = False
) -> tuple[IO[bytes], dict[FileKey, list[ResultRow]]]:
    """Open a journal to append to, with the rows that it holds.

    It begins anew with `restart` or where it is of a run of another identity. A line that a kill
    has torn, and what follows it, is dropped.
    """
    stream = path.open("a+b")
    finished: dict[FileKey, list[ResultRow]] = {}
    stream.seek(0)
    good = 0
    if not restart and stream.readline() == json_line(identity):
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
        stream.write(json_line(identity))
        stream.flush()
    return stream, finished


def key_of(file: Path) -> FileKey:
    """What tells whether a file is still the one that was classified."""
    try:
        status = file.stat()
    except OSError:  # gone since it was found; the engine says so in its answer
        return str(file), -1, -1
    return str(file), status.st_size, status.st_mtime_ns


def json_line(value: Any) -> bytes:
    """A value as one line of the journal."""
    return (json.dumps(value) + "\n").encode()
