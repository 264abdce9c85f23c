"""Groups that a split keeps together, such as patients, as hashes."""

from collections.abc import Hashable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from medfocus.engine.io.reading.reader import read_parts
from medfocus.errors import ImageError


def group_of(identifier: str) -> str | None:
    """SHA-256 of an identifier, in hexadecimal; None if it is blank.

    Hashing keeps identifiers out of logs and tracebacks. It is not anonymisation: a guessed
    identifier can be checked against the hash, so the hash is never written to a file either.
    """
    identifier = identifier.strip()
    return sha256(identifier.encode()).hexdigest() if identifier else None


def patient_group(path: Path) -> str | None:
    """The group of a DICOM file, from its PatientID; None for other files and blank IDs.

    A file that cannot be read has no group either; it is reported when its image is read.
    """
    try:
        return read_parts(path)[0].patient or None
    except ImageError:
        return None


def components(keys: Iterable[Sequence[Hashable]]) -> list[int]:
    """Connected components: N numbers, equal for things linked by common keys.

    Held-out parts depend on the numbers' order, so this union-find must keep numbering components
    as it does.

    Args:
        keys: the keys of each of N things.
    """
    parent: list[int] = []

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[Hashable, int] = {}
    for index, own in enumerate(keys):
        parent.append(index)
        for key in own:
            parent[root(index)] = root(first.setdefault(key, index))
    return [root(index) for index in range(len(parent))]
