"""What a pipeline did, as a Chrome trace and as a picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medfocus.engine.runtime.metrics import STAGES, Span
from medfocus.errors import InputError

WORK, BUFFERS = 1, 2  # the trace's two processes
COLOURS = {
    "read": "#b9bec4",
    "prepare": "#e0a030",
    "segment": "#0b6e99",
    "classify": "#3a9d5d",
    "answer": "#c0392b",
}


def write_trace(spans: Sequence[Span], path: Path) -> None:
    """Write spans in Chrome's trace format, which Perfetto and chrome://tracing open.

    A row a thread or stream, and a row a slot of the ring, filled while a batch is in it.
    """
    begin = min(span.begun for span in spans)
    lanes = _lanes(spans)
    events = [_named(WORK, "stages"), _named(BUFFERS, "buffers")]
    events += [_named(WORK, lane, place) for place, lane in enumerate(lanes)]
    events += [_named(BUFFERS, f"slot {slot}", slot) for slot in _slots(spans)]
    for span in spans:
        name = span.stage if span.batch is None else f"{span.stage} {span.batch}"
        event = _event(WORK, lanes.index(span.lane), name, span.begun - begin, span.ended - begin)
        event["args"] = {"images": span.images, "waited_us": round(1e6 * span.waited)}
        events.append(event)
    for batch, (slot, begun, ended) in _stays(spans).items():
        events.append(_event(BUFFERS, slot, f"batch {batch}", begun - begin, ended - begin))
    path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}) + "\n")


def draw_trace(spans: Sequence[Span], path: Path, title: str, batches: int = 6) -> None:
    """Draw some batches in the middle as a PNG: time to the right, a row a thread, stream and slot.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        hint = "install it (pip install matplotlib)"
        raise InputError("the picture", "matplotlib is not installed", hint) from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    stays = _stays(spans)
    numbers = sorted(stays)
    middle = numbers[max(0, (len(numbers) - batches) // 2) :][:batches]
    begin = min(stays[number][1] for number in middle)
    end = max(stays[number][2] for number in middle)
    lanes, slots = _lanes(spans), _slots(spans)
    rows = [*lanes, *(f"slot {slot}" for slot in slots)]
    figure, axis = plt.subplots(figsize=(12, 0.9 + 0.42 * len(rows)))
    for span in spans:
        bar = (1e3 * (span.begun - begin), 1e3 * (span.ended - span.begun))
        place = lanes.index(span.lane)
        axis.broken_barh([bar], (place - 0.38, 0.76), color=COLOURS[span.stage], lw=0)
    for batch, (slot, begun, ended) in stays.items():
        place = rows.index(f"slot {slot}")
        left, right = 1e3 * (begun - begin), 1e3 * (ended - begin)
        axis.broken_barh(
            [(left, right - left)], (place - 0.38, 0.76), color="#e8eaec", ec="#8a9096"
        )
        shown = max(left, 0.0), min(right, 1e3 * (end - begin))
        if shown[1] - shown[0] > 30 * (end - begin):  # wide enough for its number
            axis.text(sum(shown) / 2, place, str(batch), ha="center", va="center", fontsize=8)
    names = [row.removeprefix("medfocus-").replace("_", " ") for row in rows]
    axis.set_yticks(range(len(rows)), names, fontsize=9)
    axis.invert_yaxis()
    axis.set_xlim(0, 1e3 * (end - begin))
    axis.set_xlabel("milliseconds; in the slots: which batch", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    handles = [Patch(color=COLOURS[stage]) for stage in STAGES]
    axis.legend(
        handles, STAGES, ncols=len(STAGES), loc="lower right", bbox_to_anchor=(1, 1),
        frameon=False, fontsize=9,
    )  # fmt: skip
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _lanes(spans: Sequence[Span]) -> list[str]:
    """Threads and streams, in the order in which an image meets them."""
    order = {stage: place for place, stage in enumerate(STAGES)}
    first: dict[str, int] = {}
    for span in spans:
        first[span.lane] = min(first.get(span.lane, len(STAGES)), order[span.stage])
    return sorted(first, key=lambda lane: (first[lane], lane))


def _slots(spans: Sequence[Span]) -> list[int]:
    return sorted({span.buffers for span in spans if span.buffers is not None})


def _stays(spans: Sequence[Span]) -> dict[int, tuple[int, float, float]]:
    """From batch to its slot, and when it came and went."""
    stays: dict[int, tuple[int, float, float]] = {}
    for span in spans:
        if span.batch is not None and span.buffers is not None:
            slot, begun, ended = stays.get(span.batch, (span.buffers, span.begun, span.ended))
            stays[span.batch] = (slot, min(begun, span.begun), max(ended, span.ended))
    return stays


def _named(process: int, name: str, thread: int | None = None) -> dict[str, Any]:
    event: dict[str, Any] = {"ph": "M", "pid": process, "args": {"name": name}}
    event["name"] = "process_name" if thread is None else "thread_name"
    return event if thread is None else event | {"tid": thread}


def _event(process: int, thread: int, name: str, begun: float, ended: float) -> dict[str, Any]:
    """A complete event; the format counts microseconds."""
    return {
        "ph": "X", "pid": process, "tid": thread, "name": name,
        "ts": round(1e6 * begun, 1), "dur": round(1e6 * (ended - begun), 1),
    }  # fmt: skip
