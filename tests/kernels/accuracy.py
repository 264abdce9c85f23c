"""How near a fast path must come to float64."""

import torch
from torch import Tensor


def assert_as_accurate(ours: Tensor, peer: Tensor, exact: Tensor) -> None:
    """Our error is at most twice that of PyTorch's own path in the same dtype.

    Where PyTorch happens to be nearer than its dtype can hold in general (one key, say), the
    measure is the rounding of the exact result.
    """
    assert ours.dtype == peer.dtype
    assert exact.dtype == torch.float64
    rounded = exact.to(ours.dtype)
    limit = 2 * max(_error(peer, exact), _error(rounded, exact))
    assert ours.isfinite().all()
    assert _error(ours, exact) <= limit


def _error(values: Tensor, exact: Tensor) -> float:
    return float((values.double() - exact).norm())
