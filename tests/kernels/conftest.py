"""Where the kernels run: on the GPU if there is one, otherwise on the CPU in the interpreter."""

from collections.abc import Iterator

import pytest
import torch

from medfocus.kernels import dispatch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def device() -> str:
    return DEVICE


@pytest.fixture
def kernel_required() -> Iterator[None]:
    """Arguments that a kernel does not support are an error, instead of taking PyTorch's path."""
    with dispatch.using("require"):
        yield
