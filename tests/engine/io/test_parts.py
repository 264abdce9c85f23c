"""What a reading process says of a file's parts: all of it comes, and nothing else is believed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfocus.engine.io.reading.limits import ReadingLimits
from medfocus.engine.io.reading.reader import FileReader
from medfocus.engine.io.volumes.parts import Part, from_json, to_json
from medfocus.engine.series.reading import parts_of
from tests.engine.series.slices import saved
from tests.engine.series.test_grouping import enhanced

PART = Part(
    first=2,
    count=1,
    series="0123456789abcdef",
    rows=4,
    columns=6,
    orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    position=(0.0, -1.5, 3e9),
    instance=-3,
    kinds=("0" * 16, "", "", "", "", "f" * 16),
)


def test_more_parts_than_a_message_holds(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, [enhanced([float(n) for n in range(150)], [5.0, 9.0] * 75)])
    reader = FileReader(ReadingLimits(seconds=60))
    found = parts_of(path, path, reader)
    reader.close()
    assert found == parts_of(path, path, FileReader(trust_files=True))
    assert [part.first for part in found] == list(range(150))


def test_a_part_is_read_back() -> None:
    assert from_json(to_json(PART)) == PART
    assert from_json(to_json(Part())) == Part()


@pytest.mark.parametrize(
    "changes",
    [
        {"first": -1},
        {"first": True},
        {"count": 0},
        {"count": "1"},
        {"rows": 1.0},
        {"series": "1.2.826.0.1"},
        {"series": 3},
        {"kinds": ["a"] * 6},
        {"kinds": [""] * 5},
        {"kinds": [[]] * 6},
        {"orientation": [1.0] * 5},
        {"orientation": []},
        {"position": [0.0, 0.0, np.inf]},
        {"position": [0.0, 0.0, None]},
        {"position": 3},
        {"instance": 2**40},
        {"other": 1},
    ],
)
def test_anything_else_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        from_json(to_json(PART) | changes)
    others: tuple[Any, ...] = (None, [], "text", 3)
    for given in others:
        with pytest.raises(ValueError):  # noqa: PT011
            from_json(given)
