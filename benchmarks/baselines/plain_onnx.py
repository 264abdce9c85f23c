"""Upstream's image encoders through `torch.onnx.export` into ONNX Runtime, unchanged."""

from collections.abc import Callable
from typing import Any

import onnxruntime as ort
import torch
from torch import Tensor, nn

from medfocus.errors import InputError

EXAMPLES = 2  # a batch of one would be fixed in the graph


def plain_onnx(module: nn.Module, size: int, device: str) -> Callable[[Tensor], list[Tensor]]:
    """An image encoder in ONNX Runtime, in float32, with batches of any size.

    Args:
        module: (B, 3, size, size) to a tensor or a tuple of tensors.
        size: of the images.
        device: cpu or cuda.

    Returns:
        images to all of its outputs.

    Raises:
        InputError: an onnxruntime without CUDA, where that is wanted.
    """
    program = torch.onnx.export(
        module.cpu().eval(),
        (torch.randn(EXAMPLES, 3, size, size),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert program is not None
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    session = ort.InferenceSession(program.model_proto.SerializeToString(), providers=[provider])
    if provider not in session.get_providers():
        problem, hint = "is not in this onnxruntime", "pip install onnxruntime-gpu"
        raise InputError(provider, problem, hint, code="backend.not_installed")
    name = session.get_inputs()[0].name

    def run(image: Tensor) -> list[Tensor]:
        found: Any = session.run(None, {name: image.cpu().numpy()})
        return [torch.from_numpy(output).to(device) for output in found]

    return run


class PlainOnnxEncoder(nn.Module):
    """SAM2's image encoder in ONNX Runtime, with the outputs that its predictor reads.

    Args:
        encoder: sam2's `ImageEncoder`.
        size: of the images.
        device: cpu or cuda.
    """

    def __init__(self, encoder: nn.Module, size: int, device: str) -> None:
        super().__init__()
        with torch.inference_mode():
            shown: dict[str, Any] = encoder(torch.zeros(1, 3, size, size, device=device))
        self._positions = shown["vision_pos_enc"]  # the same for every image
        self._run = plain_onnx(_Pyramid(encoder), size, device)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """As upstream's: `vision_features`, `vision_pos_enc`, `backbone_fpn`."""
        pyramid = self._run(image)
        positions = [each.expand(len(image), -1, -1, -1) for each in self._positions]
        return {
            "vision_features": pyramid[-1],
            "vision_pos_enc": positions,
            "backbone_fpn": pyramid,
        }


class _Pyramid(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.encoder(image)["backbone_fpn"])
