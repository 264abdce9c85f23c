"""A journal of the files that a run has finished, so that it can resume after an interruption.

The first line, in JSON, identifies the run; each further line is a finished file.
"""

import json
from pathlib import Path
from typing import IO, Any

ResultRow = dict[str, Any]  # Prediction.to_json
FileKey = tuple[str, int, int]  # a file as it was classified: path, size, modification time in ns


def journal_path(output: Path) -> Path:
    """The journal of a run that writes `output`."""
    return output.with_name(f"{output.name}.partial")


def open_journal(
    path: Path, identity: ResultRow, restart: bool = False
) -> tuple[IO[bytes], dict[FileKey, list[ResultRow]]]:
    """Open a journal for appending, and return the rows that it holds.

    It is emptied with `restart`, or if it belongs to a run of another identity. A line that was
    written incompletely, and what follows it, is dropped.

    Args:
        path: of the journal; created if missing.
        identity: everything that the results depend on besides the files.
        restart: discard what the journal holds.
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
    """A key that changes if the file changes after it was classified."""
    try:
        status = file.stat()
    except OSError:  # deleted since it was found; the engine reports it
        return str(file), -1, -1
    return str(file), status.st_size, status.st_mtime_ns


def json_line(value: Any) -> bytes:
    """A value as one line of the journal."""
    return (json.dumps(value) + "\n").encode()
