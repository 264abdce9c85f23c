"""Memory that is there twice, on the host and on the device, and copies that nobody waits for."""

import torch
from torch import Tensor


class HostDeviceBuffer:
    """The same memory on the host, where it is pinned for CUDA, and on the device."""

    def __init__(self, device: str, dtype: torch.dtype, *shape: int) -> None:
        # The host's device is named too: the process may have made another its default.
        self.host = torch.zeros(shape, dtype=dtype, device="cpu", pin_memory=device == "cuda")
        self.device = torch.zeros(shape, dtype=dtype, device=device)

    def up(self, count: int) -> None:
        """Begin to copy the first `count` along the first axis to the device."""
        self.device[:count].copy_(self.host[:count], non_blocking=True)

    def down(self, count: int) -> None:
        """Begin to copy the first `count` along the first axis to the host."""
        self.host[:count].copy_(self.device[:count], non_blocking=True)


def uploaded(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on the device, in the current stream's order.

    Through pinned memory on CUDA: from any other the host would wait until the copy has ended, and
    so until all has that the stream was given before.
    """
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    return pinned.to(device, non_blocking=True)
