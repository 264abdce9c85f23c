"""Backward passes through PyTorch's operators: for training, memory matters more than speed."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradients(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    grad_output: Tensor,
) -> list[Tensor | None]:
    """Run `function` again on the saved inputs and differentiate it.

    Args:
        function: computes the output from the inputs.
        inputs: the saved inputs; None for an absent tensor.
        needed: which inputs need a gradient; entries beyond the inputs are ignored.
        grad_output: gradient of the output.

    Returns:
        The gradient of each input; None where it is not needed.
    """
    with torch.enable_grad():
        leaves = [
            None if tensor is None else tensor.detach().requires_grad_(wanted)
            for tensor, wanted in zip(inputs, needed, strict=False)
        ]
        output = function(*leaves)
    wanted = [tensor for tensor in leaves if tensor is not None and tensor.requires_grad]
    found = iter(torch.autograd.grad(output, wanted, grad_output))
    return [next(found) if t is not None and t.requires_grad else None for t in leaves]
