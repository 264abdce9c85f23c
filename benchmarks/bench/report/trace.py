"""A pipeline's timeline, as a Chrome trace and as a picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medfocus.engine.runtime.metrics import STAGES, Span

WORK, BUFFERS = 1, 2  # the trace's two processes
COLOURS = dict(zip(STAGES, ("#b9bec4", "#e0a030", "#0b6e99", "#3a9d5d", "#c0392b"), strict=True))


def write_trace(spans: Sequence[Span], path: Path) -> None:
    """Write spans in Chrome's trace format, which Perfetto and chrome://tracing open.

    It has a row for each thread or stream, and one for each of the pool's batch buffers that shows
    when a batch is in them.
    """
    begin = min(span.begun for span in spans)
    lanes, stays = _lanes(spans), _stays(spans)
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": pid, "name": "process_name", "args": {"name": name}}
        for pid, name in ((WORK, "stages"), (BUFFERS, "buffers"))
    ]
    threads = [(WORK, place, lane) for place, lane in enumerate(lanes)]
    threads += [(BUFFERS, each, f"buffers {each}") for each in _buffers(spans)]
    events += [
        {"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": {"name": name}}
        for pid, tid, name in threads
    ]
    for span in spans:
        name = span.stage if span.batch is None else f"{span.stage} {span.batch}"
        event = _event(WORK, lanes.index(span.lane), name, span.begun - begin, span.ended - begin)
        event["args"] = {"images": span.images, "waited_us": round(1e6 * span.waited)}
        events.append(event)
    for batch, (buffers, begun, ended) in stays.items():
        events.append(_event(BUFFERS, buffers, f"batch {batch}", begun - begin, ended - begin))
    path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}) + "\n")


def draw_trace(spans: Sequence[Span], path: Path, title: str, batches: int = 6) -> None:
    """Draw some batches in the middle as a PNG, with matplotlib."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    stays = _stays(spans)
    numbers = sorted(stays)
    middle = numbers[max(0, (len(numbers) - batches) // 2) :][:batches]
    begin = min(stays[number][1] for number in middle)
    length = 1e3 * (max(stays[number][2] for number in middle) - begin)
    lanes = _lanes(spans)
    rows = [*lanes, *(f"buffers {each}" for each in _buffers(spans))]
    figure = Figure(figsize=(12, 0.9 + 0.42 * len(rows)))
    axis = figure.subplots()
    for span in spans:
        bar = (1e3 * (span.begun - begin), 1e3 * (span.ended - span.begun))
        place = lanes.index(span.lane) - 0.38
        axis.broken_barh([bar], (place, 0.76), color=COLOURS[span.stage], lw=0)
    for batch, (buffers, begun, ended) in stays.items():
        place = rows.index(f"buffers {buffers}")
        left, right = 1e3 * (begun - begin), 1e3 * (ended - begin)
        bar = (left, right - left)
        axis.broken_barh([bar], (place - 0.38, 0.76), color="#e8eaec", ec="#8a9096")
        shown = max(left, 0.0), min(right, length)
        if shown[1] - shown[0] > 0.03 * length:  # wide enough for its number
            axis.text(sum(shown) / 2, place, str(batch), ha="center", va="center", fontsize=8)
    names = [row.removeprefix("medfocus-").replace("_", " ") for row in rows]
    axis.set_yticks(range(len(rows)), names, fontsize=9)
    axis.invert_yaxis()
    axis.set_xlim(0, length)
    axis.set_xlabel("milliseconds; in the buffers: number of the batch", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    handles = [Patch(color=COLOURS[stage]) for stage in STAGES]
    axis.legend(
        handles, STAGES, ncols=len(STAGES), loc="lower right", bbox_to_anchor=(1, 1),
        frameon=False, fontsize=9,
    )  # fmt: skip
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _lanes(spans: Sequence[Span]) -> list[str]:
    """Threads and streams, in the order of the stages."""
    first: dict[str, int] = {}
    for span in spans:
        first[span.lane] = min(first.get(span.lane, len(STAGES)), STAGES.index(span.stage))
    return sorted(first, key=lambda lane: (first[lane], lane))


def _buffers(spans: Sequence[Span]) -> list[int]:
    return sorted({span.buffers for span in spans if span.buffers is not None})


def _stays(spans: Sequence[Span]) -> dict[int, tuple[int, float, float]]:
    """Of each batch: its buffers, and from when to when it was in them."""
    stays: dict[int, tuple[int, float, float]] = {}
    for span in spans:
        if span.batch is not None and span.buffers is not None:
            buffers, begun, ended = stays.get(span.batch, (span.buffers, span.begun, span.ended))
            stays[span.batch] = (buffers, min(begun, span.begun), max(ended, span.ended))
    return stays


def _event(process: int, thread: int, name: str, begun: float, ended: float) -> dict[str, Any]:
    """A complete event; the format counts microseconds."""
    return {
        "ph": "X", "pid": process, "tid": thread, "name": name,
        "ts": round(1e6 * begun, 1), "dur": round(1e6 * (ended - begun), 1),
    }  # fmt: skip
