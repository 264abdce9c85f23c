"""The pipeline's goals for Hopper, and what `make gpu-check` measured for each of them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

GOAL_DEVICES = ("H100", "H200")
# Of `base` with one prompt, per image: SAM2's image encoder, its decoder, CLIP ViT-B/16 (PyTorch's
# FLOP counter). Over the card's own measured rate that is the least time.
FLOP = 292e9 + 3.6e9 + 35e9
STREAM, SEGMENTER = "stream", "segmenter only"
EAGER, COMPILED = "upstream eager fp32", "upstream compiled fp16"
# To reach, or to stay under where the name is in AT_MOST; as `goals` computes them.
GOALS = {
    f"{STREAM} / {SEGMENTER}": 0.95,
    f"{STREAM} / {EAGER}": 5.0,
    f"{STREAM} / {COMPILED}": 2.0,
    f"{STREAM} / compute floor": 0.40,
    "latency of one image / its graphs' GPU time": 1.15,
    "idle share of the GPU": 0.05,
}
AT_MOST = ("latency of one image / its graphs' GPU time", "idle share of the GPU")


def has_goals(device: str | None) -> bool:
    """Whether the goals are for a device of this name."""
    return device is not None and any(name in device for name in GOAL_DEVICES)


def goals(found: Mapping[str, Any]) -> dict[str, float | None]:
    """The figure for each of `GOALS` from what was recorded; None where that lacks it.

    Upstream counts at its best: at the batch size at which our lead is smallest.
    """
    ratios: dict[str, list[float]] = {}
    for each in found["comparisons"]:
        rounds = zip(each["stream"], each["images_per_second"], strict=True)
        ratios.setdefault(each["baseline"], []).append(median(a / b for a, b in rounds))
    stream = [each["stream"] for each in found["comparisons"] if each["baseline"] == SEGMENTER]
    rate = found.get("matrix_rate")
    floored = stream and rate and found["preset"] == "base"
    graphs, idle = found.get("graphs_ms"), found.get("idle")
    figures = (
        *(min(ratios[name]) if name in ratios else None for name in (SEGMENTER, EAGER, COMPILED)),
        median(stream[0]) * FLOP / rate if floored else None,
        found["latency_ms"] / graphs if graphs else None,
        idle["share"] if idle else None,
    )
    return dict(zip(GOALS, figures, strict=True))


def verdict(name: str, value: float | None) -> str:
    """`met`, `not met` or `not measured`."""
    if value is None:
        return "not measured"
    limit = GOALS[name]
    return "met" if (value <= limit if name in AT_MOST else value >= limit) else "not met"


def read_pipeline(out: Path) -> dict[str, Any]:
    """The content of a folder's pipeline.json; empty without one."""
    file = out / "pipeline.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


def pipeline_problems(found: Mapping[str, Any], device: str | None) -> Iterator[str]:
    """What failed, what was not reached, and on a device with goals each that is not met."""
    yield from (f"pipeline: {problem}" for problem in found.get("problems", ()))
    yield from (f"pipeline: {step}: not reached" for step in found.get("not_reached", ()))
    if has_goals(device):
        for name, value in found.get("goals", {}).items():
            if verdict(name, value) != "met":
                yield f"goal {verdict(name, value)}: {name}"


def pipeline_table(found: Mapping[str, Any]) -> str:
    """One line per goal: its limit and what was measured."""
    values = found.get("goals") or dict.fromkeys(GOALS)
    width = max(map(len, GOALS))
    lines = [f"Goals of the pipeline for {' and '.join(GOAL_DEVICES)}, base in bf16, one prompt"]
    for name, limit in GOALS.items():
        value = values[name]
        text = "-" if value is None else f"{value:.3f}"
        sign = "≤" if name in AT_MOST else "≥"
        lines.append(f"{name:{width}}  {sign} {limit:<4g}  {text:>7}  {verdict(name, value)}")
    return "\n".join(lines)
