"""Shows the progress of an export on the terminal, stage by stage."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[[int], None]


class ProgressReporter:
    """Shows the current stage, and records the seconds of finished ones.

    Args:
        console: where to show them; None shows nothing.

    Attributes:
        seconds: by stage, in the order of their first start; repeated runs of a stage are summed.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(quiet=True)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Run a stage; call the yielded function with the number of units just finished."""
        columns: list[ProgressColumn] = [TextColumn(f"{name:<34}"), BarColumn(bar_width=24)]
        columns += [MofNCompleteColumn(), TimeRemainingColumn()] if total else []
        columns.append(TimeElapsedColumn())
        begun = time.perf_counter()
        # The bar disappears when the stage ends, so that an error is the only line; logs get none.
        hidden = not self._console.is_terminal
        with Progress(*columns, console=self._console, transient=True, disable=hidden) as progress:
            task = progress.add_task(name, total=total)
            yield lambda done: progress.update(task, advance=done)
        self._done(name, time.perf_counter() - begun)

    @contextmanager
    def builder(self) -> Iterator[Progress]:
        """Run TensorRT's builder as a stage; it shows its own phases and steps."""
        begun = time.perf_counter()
        hidden = not self._console.is_terminal
        with Progress(console=self._console, transient=True, disable=hidden) as progress:
            yield progress
        self._done("building TensorRT plans", time.perf_counter() - begun)

    def say(self, line: str) -> None:
        """Print a line between progress lines."""
        self._console.print(line)

    def _done(self, name: str, elapsed: float) -> None:
        self._console.print(f"{name:<34} {elapsed:7.1f} s")
        self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
