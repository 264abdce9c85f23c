"""Pairs of host and device memory, and asynchronous copies between them."""

import torch
from torch import Tensor


class HostDeviceBuffer:
    """One tensor on the host, pinned if the device is CUDA, and one on the device."""

    def __init__(self, device: str | torch.device, dtype: torch.dtype, *shape: int) -> None:
        # The host's device is given explicitly: the process may have set another default.
        pinned = torch.device(device).type == "cuda"
        self.host = torch.zeros(shape, dtype=dtype, device="cpu", pin_memory=pinned)
        self.device = torch.zeros(shape, dtype=dtype, device=device)

    def up(self, count: int) -> None:
        """Start copying the first `count` rows to the device."""
        self.device[:count].copy_(self.host[:count], non_blocking=True)

    def down(self, count: int) -> None:
        """Start copying the first `count` rows to the host."""
        self.host[:count].copy_(self.device[:count], non_blocking=True)


def uploaded(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on the device, in the order of the current stream.

    On CUDA through pinned memory: a copy from pageable memory would block the host until the
    stream has finished all earlier work.
    """
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    return pinned.to(device, non_blocking=True)
