"""What tests ask of an error: its type, its code, its item; never its wording."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from medfocus.errors import MedfocusError


@contextmanager
def refuses(
    kind: type[MedfocusError], code: str, item: str | None = None
) -> Iterator[pytest.ExceptionInfo[MedfocusError]]:
    """As `pytest.raises`: the block must raise `kind` itself with that code, and name the item."""
    with pytest.raises(kind) as caught:
        yield caught
    assert (type(caught.value), caught.value.code) == (kind, code)
    assert item is None or item in caught.value.item
