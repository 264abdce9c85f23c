"""The parts of `make gpu-check` in their order, and the seconds that each may take."""

from collections.abc import Mapping, Sequence

from medfocus.benchmarks.bench.kernels.shapes import comparisons

WARM_UP, CEILINGS, PIPELINE, CHECKS = "warm-up", "ceilings", "pipeline", "checks"
# First what makes the rest fast, then what gives a goal's figure, then what a smoke test has seen.
LIMITS = {
    WARM_UP: 65.0,
    CEILINGS: 15.0,
    PIPELINE: 115.0,
    "attention": 60.0,
    "windows": 25.0,
    "hard": 20.0,
    "small": 20.0,
    CHECKS: 80.0,
}
AROUND = 20.0  # seconds to start, to compare sources, and to write everything at the end
PARTS = tuple(name for name in LIMITS if name not in (WARM_UP, CEILINGS))  # what can be asked for


def limits_of(only: Sequence[str] = (), budget: float | None = None) -> dict[str, float]:
    """Seconds that each part is guaranteed, in order.

    Args:
        only: names in `PARTS`; empty for all. What they need runs with them.
        budget: seconds for everything, shared in proportion; by default the sum of the limits. The
            ceilings keep their limit, for without them no kernel is timed.
    """
    wanted = {WARM_UP, *(only or PARTS)}
    if wanted & comparisons().keys():
        wanted.add(CEILINGS)
    limits = {name: seconds for name, seconds in LIMITS.items() if name in wanted}
    if budget is None:
        return limits
    fixed = limits.get(CEILINGS, 0.0)
    share = max(0.0, budget - AROUND - fixed) / (sum(limits.values()) - fixed)
    return {name: s if name == CEILINGS else share * s for name, s in limits.items()}


def allowance(part: str, elapsed: float, limits: Mapping[str, float]) -> float:
    """Seconds for a part that begins after `elapsed`: all but what later ones are guaranteed."""
    names = list(limits)
    upto = names[: names.index(part) + 1]
    return sum(limits[name] for name in upto) - elapsed
