"""The share of time in which a GPU is idle, from the kernels and copies that torch.profiler saw."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Interval = tuple[float, float]  # begun, ended

# Categories of a Chrome trace. A named range has its own, and spans the gaps within it.
WORK = ("kernel", "gpu_memcpy", "gpu_memset")
TRIM = 0.2  # of a run, at either end: the pipeline fills and drains there


def device_work(run: Callable[[], object]) -> list[Interval]:
    """Seconds at which each kernel, copy and fill of `run` began and ended on the GPU."""
    with tempfile.TemporaryDirectory() as folder:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            run()
            torch.cuda.synchronize()
        trace = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(trace))
        return intervals_of(json.loads(trace.read_text()))


def intervals_of(trace: Mapping[str, Any]) -> list[Interval]:
    """A Chrome trace's work on the device, from its microseconds to seconds."""
    events = [event for event in trace["traceEvents"] if event.get("cat") in WORK]
    return [(1e-6 * event["ts"], 1e-6 * (event["ts"] + event["dur"])) for event in events]


def idle_share(work: Sequence[Interval], trim: float = TRIM) -> float:
    """Share of the middle of a run in which nothing ran: 1 - |union of intervals| / |window|.

    Args:
        work: in any order; intervals may overlap.
        trim: share of the run that is left out at either end.

    Raises:
        ValueError: there are no intervals.
    """
    if not work:
        raise ValueError("the profiler saw nothing on the device")
    first, last = min(begun for begun, _ in work), max(ended for _, ended in work)
    begin, end = first + trim * (last - first), last - trim * (last - first)
    busy, until = 0.0, begin
    for begun, ended in sorted(work):
        busy += max(min(ended, end) - max(begun, until), 0.0)
        until = max(until, ended)
    return 1 - busy / (end - begin)
