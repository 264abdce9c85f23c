"""The prompts of a batch on the device, with buffers of their own for the usual shapes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medfocus.engine.backends.torch.host_device_buffer import HostDeviceBuffer, uploaded
from medfocus.engine.preprocess.batch import in_frame
from medfocus.settings import Prompts

Shape = tuple[int, ...]  # (P, n): P prompts of n points
# A caller's point; a caller's box, which is two points. They are not padded to the zero-shot
# prompts' shape: a padding point takes part in SAM2's attention and changes the mask.
OWN_SHAPES: tuple[Shape, ...] = ((1, 1), (1, 2))


class PromptBuffers:
    """Points and labels of one batch at a time, all of one shape.

    Prompts of a usual shape are always at the same addresses, as CUDA graphs need it.

    Args:
        device: see `TorchBatchBuffers`.
        count: most images of a batch.
        zero_shot: shape of the manifest's prompts.

    Attributes:
        shape: of the batch's prompts.
    """

    def __init__(self, device: str | torch.device, count: int, zero_shot: Shape) -> None:
        self._device, self.shape = torch.device(device), zero_shot
        self._usual = {
            shape: (
                HostDeviceBuffer(device, torch.float32, count, *shape, 2),
                HostDeviceBuffer(device, torch.int32, count, *shape),
            )
            for shape in (zero_shot, *OWN_SHAPES)
        }

    @property
    def usual(self) -> list[Shape]:
        """The shapes that have buffers, the zero-shot prompts' first."""
        return [*self._usual]

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(buffer.device.nbytes for pair in self._usual.values() for buffer in pair)

    def write(self, prompts: Sequence[Prompts], size: int) -> None:
        """Begin a batch: the prompts of its rows, for SAM2's size×size frame."""
        arrays = (in_frame(one, size) for one in prompts)
        tensors = [torch.from_numpy(np.stack(column)) for column in zip(*arrays, strict=True)]
        self.shape = tuple(tensors[1].shape[1:])
        if self.shape not in self._usual:
            self._unusual = tensors
            return
        for buffer, tensor in zip(self._usual[self.shape], tensors, strict=True):
            buffer.host[: len(prompts)] = tensor

    def up(self, count: int) -> None:
        """Start copying the prompts of the first `count` rows to the device."""
        if self.shape in self._usual:
            for buffer in self._usual[self.shape]:
                buffer.up(count)
        else:
            self._unusual = [uploaded(tensor, self._device) for tensor in self._unusual]

    def tensors(self, count: int) -> list[Tensor]:
        """Points (count, P, n, 2) and labels (count, P, n) on the device, after `up`."""
        if self.shape in self._usual:
            return [buffer.device[:count] for buffer in self._usual[self.shape]]
        return self._unusual
