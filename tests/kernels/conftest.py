"""Where the kernels run: on the GPU if there is one, else on the CPU in Triton's interpreter."""

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
    """What a kernel cannot take is an error, not another path."""
    with dispatch.using("require"):
        yield
