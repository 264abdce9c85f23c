"""Progress of an export, stage by stage, on the terminal."""

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
    """Shows the stage at work, keeps the seconds of those that are done.

    Args:
        console: where to show them; None shows nothing.

    Attributes:
        seconds: by stage, in the order in which they began; one that ran again adds up.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(quiet=True)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Run a stage; what it yields takes the number of units that have been done."""
        columns: list[ProgressColumn] = [TextColumn(f"{name:<34}"), BarColumn(bar_width=24)]
        columns += [MofNCompleteColumn(), TimeRemainingColumn()] if total else []
        columns.append(TimeElapsedColumn())
        begun = time.perf_counter()
        # The bar goes when the stage ends, so that an error stands alone; a log gets none.
        hidden = not self._console.is_terminal
        with Progress(*columns, console=self._console, transient=True, disable=hidden) as progress:
            task = progress.add_task(name, total=total)
            yield lambda done: progress.update(task, advance=done)
        self._done(name, time.perf_counter() - begun)

    @contextmanager
    def builder(self) -> Iterator[Progress]:
        """A stage of a builder that shows phases and steps of its own."""
        begun = time.perf_counter()
        hidden = not self._console.is_terminal
        with Progress(console=self._console, transient=True, disable=hidden) as progress:
            yield progress
        self._done("building TensorRT plans", time.perf_counter() - begun)

    def say(self, line: str) -> None:
        """A line for the user, between progress."""
        self._console.print(line)

    def _done(self, name: str, elapsed: float) -> None:
        self._console.print(f"{name:<34} {elapsed:7.1f} s")
        self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
