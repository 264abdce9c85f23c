"""Convolutions without TF32: on a CPU their arguments, on a GPU their digits."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medfocus.engine.backends.torch import exact_convolutions
from medfocus.engine.backends.torch.exact_convolutions import ExactConvolutions

LAYERS = {
    "patch embedding": nn.Conv2d(3, 8, 4, stride=4, bias=False),
    "padded": nn.Conv2d(3, 8, (7, 5), stride=(4, 2), padding=(3, 2), dilation=(2, 1)),
    "by depth": nn.Conv2d(6, 12, 3, padding=1, groups=3),
    "upscaling": nn.ConvTranspose2d(6, 4, 2, stride=2),
    "all of it": nn.ConvTranspose2d(
        6, 4, (3, 2), stride=(2, 3), padding=1, output_padding=1, groups=2, dilation=(1, 2)
    ),
}


def image(layer: nn.Module, device: str = "cpu") -> Tensor:
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, layer.in_channels, 24, 20, generator=generator).to(device)


class Cudnn:
    """The two functions of cuDNN in PyTorch's own operators; they keep what they were given."""

    def __init__(self) -> None:
        self.tf32: list[bool] = []

    def forward(
        self,
        image: Tensor,
        weight: Tensor,
        padding: Any,
        stride: Any,
        dilation: Any,
        groups: int,
        benchmark: bool,
        deterministic: bool,
        allow_tf32: bool,
    ) -> Tensor:
        self.tf32.append(allow_tf32)
        return torch.convolution(
            image, weight, None, stride, padding, dilation, False, [0, 0], groups
        )

    def transposed(
        self,
        image: Tensor,
        weight: Tensor,
        padding: Any,
        output_padding: Any,
        stride: Any,
        dilation: Any,
        groups: int,
        benchmark: bool,
        deterministic: bool,
        allow_tf32: bool,
    ) -> Tensor:
        self.tf32.append(allow_tf32)
        return torch.convolution(
            image, weight, None, stride, padding, dilation, True, output_padding, groups
        )


@pytest.mark.parametrize("name", LAYERS)
@torch.inference_mode()
def test_a_layer_is_computed_by_cudnn_without_tf32(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cudnn, layer = Cudnn(), LAYERS[name]
    monkeypatch.setattr(torch, "cudnn_convolution", cudnn.forward)
    monkeypatch.setattr(torch, "cudnn_convolution_transpose", cudnn.transposed)
    monkeypatch.setattr(exact_convolutions, "_rounds", lambda image: True)
    with ExactConvolutions():
        found = layer(image(layer))
    assert cudnn.tf32 == [False]
    torch.testing.assert_close(found, layer(image(layer)))


def test_elsewhere_nothing_is_replaced() -> None:
    """On a CPU, where there is no cuDNN, it would fail."""
    layer = LAYERS["padded"]
    with ExactConvolutions():
        torch.testing.assert_close(layer(image(layer)), layer(image(layer)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", LAYERS)
@torch.inference_mode()
def test_digits_on_a_gpu_whatever_the_application_allows(name: str) -> None:
    layer = LAYERS[name]
    exact = layer.double()(image(layer).double())
    layer.float()
    found = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        with ExactConvolutions():
            output = layer.to("cuda")(image(layer, "cuda")).cpu()
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = found
        layer.to("cpu")
    # TF32 keeps 11 bits: its errors are about 1e-3.
    torch.testing.assert_close(output.double(), exact, rtol=0, atol=2e-5)
