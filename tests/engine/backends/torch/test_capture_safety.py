"""What CUDA graphs capture, on CUDA tensors without data: the host copies and reads nothing."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.backends.torch.backend import TorchBackend
from medfocus.export.engine_directory import build
from medfocus.kernels import dispatch
from medfocus.settings import FocusMode
from tests.conftest import random_bundle
from tests.engine.backends.torch.test_half_weights import in_half

GPU = torch.device("cuda:0")


class Watched(TorchDispatchMode):
    """Refuses operators that read or make a tensor of the host; keeps the names of all."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves((args, kwargs, output)) if isinstance(each, Tensor)]
        assert {tensor.device for tensor in tensors} <= {GPU}, func
        self.names.add(str(func))
        return output


def convolution(image: Tensor, weight: Tensor, padding: Any, stride: Any, *rest: Any) -> Tensor:
    """In place of cuDNN's, of which PyTorch cannot say the output's shape."""
    return torch.convolution(image, weight, None, stride, padding, rest[0], False, [0, 0], rest[1])


def on_gpu(backend: TorchBackend, fake: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Move a CPU's backend to a GPU that there need not be."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch, "cudnn_convolution", convolution)
    monkeypatch.setattr(dispatch, "INTERPRETED", False)
    backend.device, backend._place = "cuda", GPU
    backend._current = nullcontext  # type: ignore[method-assign]
    for graph in (backend._segmenter, backend._classifier):
        for module in graph.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        with fake:
                            tensors[name] = fake.from_tensor(tensor).to(GPU)  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("mode", "precision"),
    [("none", "bf16"), ("overlay", "bf16"), ("soft", "bf16"), ("soft", "fp32"), ("hard", "bf16")],
)
@torch.inference_mode()
def test_neither_graph_needs_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: FocusMode, precision: str
) -> None:
    """But the classifier in mode `hard`, which is not captured."""
    build(tmp_path / "engine", random_bundle(mode))
    if precision == "bf16":
        directory = in_half(tmp_path / "engine", "bf16")
    else:
        directory = read_engine_directory(tmp_path / "engine")
    fake, watched = FakeTensorMode(), Watched()
    backend = TorchBackend(directory, "cpu")
    on_gpu(backend, fake, monkeypatch)
    cells = backend._classifier.cells
    with fake:
        image, shown = (torch.zeros(3, 3, side, side, device=GPU) for side in (256, 112))
        points = torch.zeros(3, 9, 1, 2, device=GPU)
        labels = torch.zeros(3, 9, 1, device=GPU, dtype=torch.int32)
        logits, weights = (torch.zeros(3, rows, 64, device=GPU) for rows in (64, cells))
        with watched:
            backend.segment_tensors(image, points, labels)
            with pytest.raises(DataDependentOutputException) if mode == "hard" else nullcontext():
                backend.classify_tensors(shown, logits, weights, weights)
    kernels = {name.split(".")[1] for name in watched.names if name.startswith("medfocus.")}
    assert {"window_attention", "masked_attention"} <= kernels
    assert ("cls_attention" in kernels) == (mode != "hard")
