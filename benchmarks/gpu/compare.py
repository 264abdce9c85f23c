"""Runs one comparison on the GPU: who is right, which layout is best, and all times in turns."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from medfocus.benchmarks.baselines.attention import Comparison, KernelImplementation, Run
from medfocus.benchmarks.bench.environment import Environment
from medfocus.benchmarks.bench.failures import FAILURES, first_line
from medfocus.benchmarks.bench.timing.clock import quantile, ratio
from medfocus.benchmarks.gpu.rows import KernelTiming, measured_row, missing_row
from medfocus.benchmarks.gpu.timing import (
    Ceilings,
    calls_a_replay,
    capture,
    flusher,
    interleave_on_device,
)

WRONG = 0.05  # an error that no rounding explains; such a contender's time does not count
ROUNDS = {"warm": 50, "cold": 30}
AGAIN = "again"


class Entrant(NamedTuple):
    """A contender that gave the right answer."""

    contender: KernelImplementation
    run: Run
    error: float
    seconds: float


@torch.no_grad()
def compare(
    comparison: Comparison, ceilings: Ceilings, environment: Environment
) -> Iterator[KernelTiming]:
    """Rows of every contender; two for each one that was timed, with a warm and a cold cache."""
    exact = comparison.exact()
    entrants: dict[str, Entrant] = {}
    refused: dict[str, KernelTiming] = {}
    for contender in comparison.contenders:
        error = None
        try:
            run = contender.build()
            error = relative_error(contender.answer(run()), exact)
            reason = None if error <= WRONG else f"wrong, error {error:.2g}"
            if reason is None:
                entrant = Entrant(contender, run, error, _quick(run))
                best = entrants.get(contender.name)
                if best is None or entrant.seconds < best.seconds:
                    entrants[contender.name] = entrant
        except FAILURES as failure:
            reason = first_line(failure)
        if reason is not None:
            refused[contender.name] = missing_row(
                comparison, contender, reason, ceilings, environment, error
            )
    yield from (row for name, row in refused.items() if name not in entrants)
    ours = comparison.contenders[0].name
    if ours in entrants:
        yield from _timed(comparison, entrants, ours, ceilings, environment)


def _timed(
    comparison: Comparison,
    entrants: dict[str, Entrant],
    ours: str,
    ceilings: Ceilings,
    environment: Environment,
) -> Iterator[KernelTiming]:
    def blank(entrant: Entrant, reason: str) -> KernelTiming:
        return missing_row(
            comparison, entrant.contender, reason, ceilings, environment, entrant.error
        )

    flush = flusher()
    for cache, rounds in ROUNDS.items():
        runs: dict[str, Callable[[], object]] = {}
        calls: dict[str, int] = {}
        for name, entrant in entrants.items():
            calls[name] = 1
            if entrant.contender.graph and cache == "warm":
                calls[name] = calls_a_replay(entrant.seconds)
            try:
                runs[name] = _prepared(entrant, calls[name])
            except FAILURES as failure:
                reason = f"no CUDA graph holds it: {first_line(failure)}"
                yield blank(entrant, reason)
        runs[AGAIN] = _prepared(entrants[ours], calls[ours])
        calls[AGAIN] = calls[ours]
        times = interleave_on_device(runs, rounds, flush if cache == "cold" else None)
        seconds = {name: [t / calls[name] for t in found] for name, found in times.items()}
        noise = ratio(seconds[AGAIN], seconds[ours])
        for name in runs:
            if name != AGAIN:
                contender = entrants[name].contender
                yield measured_row(
                    blank(entrants[name], ""),
                    contender.path(),
                    f"CUDA graph of {calls[name]}" if contender.graph else "eager",
                    cache,
                    seconds[name],
                    ratio(seconds[name], seconds[ours]),
                    noise,
                )


def _prepared(entrant: Entrant, calls: int) -> Callable[[], object]:
    return capture(entrant.run, calls) if entrant.contender.graph else entrant.run


def _quick(run: Run) -> float:
    interleave_on_device({"": run}, 3)
    return quantile(interleave_on_device({"": run}, 7)[""], 0.5)


def relative_error(answer: Tensor, exact: Tensor) -> float:
    """|answer - exact| / |exact| over the images that `exact` holds; infinite for NaN."""
    difference = answer[: len(exact)].double() - exact
    error = float(difference.norm() / exact.norm())
    return error if error == error else float("inf")  # NaN is not itself
