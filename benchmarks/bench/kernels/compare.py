"""One comparison on the GPU: right answers, the fastest layouts, all timed in turns."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from medfocus.benchmarks.baselines.attention import Comparison, KernelImplementation, Run
from medfocus.benchmarks.bench.environment import Environment
from medfocus.benchmarks.bench.failures import first_line
from medfocus.benchmarks.bench.kernels.rows import KernelTiming, missing_row
from medfocus.benchmarks.bench.timing.clock import ratio
from medfocus.benchmarks.bench.timing.device import (
    Ceilings,
    calls_per_replay,
    capture,
    flusher,
    interleave_on_device,
)

WRONG = 0.05  # an error that no rounding explains; such times do not count
ROUNDS = {"warm": 50, "cold": 30}
AGAIN = "again"


class Candidate(NamedTuple):
    """An implementation whose answer is right."""

    implementation: KernelImplementation
    run: Run
    error: float
    seconds: float

    def prepared(self, calls: int) -> Callable[[], object]:
        """What is timed: a CUDA graph of some calls, or the call itself."""
        return capture(self.run, calls) if self.implementation.graph else self.run


@torch.no_grad()
def compare(
    comparison: Comparison, ceilings: Ceilings, environment: Environment
) -> Iterator[KernelTiming]:
    """Rows of all implementations; two for each that was timed, with a warm and a cold cache."""
    exact = comparison.exact()
    candidates: dict[str, Candidate] = {}
    refused: dict[str, KernelTiming] = {}

    def missing(
        implementation: KernelImplementation, reason: str, error: float | None
    ) -> KernelTiming:
        return missing_row(comparison, implementation, reason, ceilings, environment, error)

    for implementation in comparison.implementations:
        name, error, reason = implementation.name, None, None
        try:
            run = implementation.build()
            expected = exact if implementation.exact is None else implementation.exact()
            error = relative_error(implementation.answer(run()), expected)
            if error > WRONG:
                reason = f"wrong, error {error:.2g}"
            else:
                candidate = Candidate(implementation, run, error, _quick_seconds(run))
                if name not in candidates or candidate.seconds < candidates[name].seconds:
                    candidates[name] = candidate
        except Exception as failure:  # whatever PyTorch, Triton or another package raises
            reason = first_line(failure)
        if reason is not None:
            refused[name] = missing(implementation, reason, error)
    yield from (row for name, row in refused.items() if name not in candidates)
    ours = comparison.implementations[0].name
    if ours in candidates:
        blank = {
            name: missing(each.implementation, "", each.error) for name, each in candidates.items()
        }
        yield from _timed(candidates, ours, blank)


def _timed(
    candidates: dict[str, Candidate], ours: str, blank: dict[str, KernelTiming]
) -> Iterator[KernelTiming]:
    flush = flusher()
    for cache, rounds in ROUNDS.items():
        runs: dict[str, Callable[[], object]] = {}
        calls: dict[str, int] = {}
        for name, candidate in candidates.items():
            many = candidate.implementation.graph and cache == "warm"
            calls[name] = calls_per_replay(candidate.seconds) if many else 1
            try:
                runs[name] = candidate.prepared(calls[name])
            except Exception as failure:
                status = f"not measured: no CUDA graph captures it: {first_line(failure)}"
                yield replace(blank[name], status=status)
        runs[AGAIN] = candidates[ours].prepared(calls[ours])
        calls[AGAIN] = calls[ours]
        times = interleave_on_device(runs, rounds, flush if cache == "cold" else None)
        seconds = {name: [t / calls[name] for t in found] for name, found in times.items()}
        noise = ratio(seconds.pop(AGAIN), seconds[ours])
        for name, found in seconds.items():
            implementation = candidates[name].implementation
            yield blank[name].timed(
                found,
                path=implementation.path(),
                method=f"CUDA graph of {calls[name]}" if implementation.graph else "eager",
                cache=cache,
                ratio=ratio(found, seconds[ours]),
                noise=noise,
            )


def _quick_seconds(run: Run) -> float:
    """A median with a warm cache, to choose the layout by."""
    interleave_on_device({"": run}, 3)
    return float(np.median(interleave_on_device({"": run}, 7)[""]))


def relative_error(answer: Tensor, exact: Tensor) -> float:
    """|answer - exact| / |exact| over the images that `exact` holds; infinite for NaN."""
    difference = answer[: len(exact)].double() - exact
    error = float(difference.norm() / exact.norm())
    return error if error == error else float("inf")  # NaN is not equal to itself
