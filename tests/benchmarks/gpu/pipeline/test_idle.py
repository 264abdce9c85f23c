"""The share of time in which a GPU is idle, from the intervals in which it works."""

import pytest

from medfocus.benchmarks.gpu.pipeline.idle import idle_share, intervals_of


def test_idle_is_what_no_interval_covers() -> None:
    """The middle of 0 to 10 is 2 to 8; work overlaps from 3 to 4, and none is from 6 to 7."""
    work = [(7.0, 10.0), (0.0, 4.0), (3.0, 6.0), (3.5, 3.6)]
    assert idle_share(work) == pytest.approx(1 / 6)
    assert idle_share(work, trim=0) == pytest.approx(1 / 10)
    assert idle_share([(0, 10), (2, 3)]) == 0
    assert idle_share([(0, 1), (9, 10)]) == 1
    with pytest.raises(ValueError, match="saw nothing"):
        idle_share([])


def test_a_trace_counts_kernels_copies_and_fills() -> None:
    """A named range on the device spans the gaps within it; launches are the host's."""
    categories = ("kernel", "gpu_memcpy", "gpu_memset", "gpu_user_annotation", "cuda_runtime")
    events = [{"cat": name, "ts": 1e6 * n, "dur": 5e5} for n, name in enumerate(categories)]
    found = intervals_of({"traceEvents": [*events, {"name": "process_name", "ph": "M"}]})
    assert found == [pytest.approx((n, n + 0.5)) for n in range(3)]
