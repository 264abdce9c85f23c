"""The pipeline's goals for an H200, and what `gpu_pipeline` found for each of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

GOAL_DEVICE = "H200"
FLOOR = 2400.0  # images a second: base's arithmetic at an H200's measured bf16 rate
STREAM, ALONE = "stream", "segmenter alone"
EAGER, COMPILED = "upstream eager fp32", "upstream compiled fp16"
# To reach, or to stay under where the name is in AT_MOST; as `goals` computes them.
GOALS = {
    f"{STREAM} / {ALONE}": 0.95,
    f"{STREAM} / {EAGER}": 5.0,
    f"{STREAM} / {COMPILED}": 2.0,
    f"{STREAM} / arithmetic floor": 0.40,
    "latency of one image / its graphs' GPU time": 1.15,
    "idle share of the GPU": 0.05,
}
AT_MOST = ("latency of one image / its graphs' GPU time", "idle share of the GPU")


def goals(found: Mapping[str, Any]) -> dict[str, float | None]:
    """The figure for each of `GOALS`, from as much as was recorded; None where that lacks it.

    Upstream counts at its best: at the batch size at which we are least ahead of it.
    """
    races: dict[str, list[float]] = {race["peer"]: [] for race in found["races"]}
    for race in found["races"]:
        races[race["peer"]].append(_ahead(race["stream"], race["images_per_second"]))
    alone = [race["stream"] for race in found["races"] if race["peer"] == ALONE]
    base = alone and found["preset"] == "base"
    graphs, idle = found.get("graphs_ms"), found.get("idle")
    figures = (
        *(min(races[peer]) if peer in races else None for peer in (ALONE, EAGER, COMPILED)),
        median(alone[0]) / FLOOR if base else None,
        found["latency_ms"] / graphs if graphs else None,
        idle["share"] if idle else None,
    )
    return dict(zip(GOALS, figures, strict=True))


def _ahead(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Our images a second over theirs, round by round."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def verdict(name: str, value: float | None) -> str:
    """`met`, `not met` or `not measured`."""
    if value is None:
        return "not measured"
    limit = GOALS[name]
    return "met" if (value <= limit if name in AT_MOST else value >= limit) else "not met"


def read_pipeline(out: Path) -> dict[str, Any]:
    """What `gpu_pipeline` left in a folder; empty where it left nothing."""
    file = out / "pipeline.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


def pipeline_problems(found: Mapping[str, Any], device: str | None) -> Iterator[str]:
    """What went wrong, what was not reached, and on the goals' device each goal that is not met."""
    yield from (f"pipeline: {problem}" for problem in found.get("problems", ()))
    yield from (f"pipeline: {stage}: not reached" for stage in found.get("not_reached", ()))
    if device is not None and GOAL_DEVICE in device:
        for name, value in found.get("goals", {}).items():
            judged = verdict(name, value)
            if judged != "met":
                yield f"goal {judged}: {name}"


def pipeline_table(found: Mapping[str, Any]) -> str:
    """A line a goal: what it asks for, what was found."""
    values = found.get("goals") or dict.fromkeys(GOALS)
    wide = max(map(len, GOALS))
    lines = [f"Goals of the pipeline for an {GOAL_DEVICE}, base in bf16, one prompt"]
    for name, limit in GOALS.items():
        value = values[name]
        said = "-" if value is None else f"{value:.3f}"
        sign = "≤" if name in AT_MOST else "≥"
        lines.append(f"{name:{wide}}  {sign} {limit:<4g}  {said:>7}  {verdict(name, value)}")
    return "\n".join(lines)
