"""The engine's own windows."""

import threading
from typing import Any, cast

from medfocus.benchmarks.serving.direct import window
from medfocus.engine import Engine


class _Late:
    """Answers all only when a window of no length is over."""

    def classify(self, *_: Any, **__: Any) -> None:
        threading.Event().wait(0.05)


def test_a_window_that_ends_before_any_answer_has_none() -> None:
    found = window(cast(Engine, _Late()), b"", clients=2, seconds=0.01)
    assert found["answers"] == 0
