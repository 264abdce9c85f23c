"""How accurate a fast path must be, compared with float64."""

import torch
from torch import Tensor


def assert_as_accurate(ours: Tensor, baseline: Tensor, exact: Tensor) -> None:
    """Assert that our error is at most twice that of PyTorch's path in the same dtype.

    Where PyTorch happens to be more accurate than its dtype allows in general (with one key, for
    example), the rounding of the exact result is the measure.
    """
    assert ours.dtype == baseline.dtype
    assert exact.dtype == torch.float64
    rounded = exact.to(ours.dtype)
    limit = 2 * max(_error(baseline, exact), _error(rounded, exact))
    assert ours.isfinite().all()
    assert _error(ours, exact) <= limit


def _error(values: Tensor, exact: Tensor) -> float:
    return float((values.double() - exact).norm())
