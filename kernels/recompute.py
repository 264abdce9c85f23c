"""Backward passes through PyTorch's operators: training wants memory more than it wants speed."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradients(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    grad_output: Tensor,
) -> list[Tensor | None]:
    """Run `function` again on the saved inputs, and go back through it.

    Args:
        function: from the inputs to the output.
        inputs: what was saved; None for an absent tensor.
        needed: which inputs want a gradient; what follows the inputs' own is not looked at.
        grad_output: of the output.

    Returns:
        The gradient of each input; None where it is not needed.
    """
    with torch.enable_grad():
        again = [
            None if tensor is None else tensor.detach().requires_grad_(wanted)
            for tensor, wanted in zip(inputs, needed, strict=False)
        ]
        output = function(*again)
    wanted = [tensor for tensor in again if tensor is not None and tensor.requires_grad]
    found = iter(torch.autograd.grad(output, wanted, grad_output))
    return [next(found) if t is not None and t.requires_grad else None for t in again]
