"""SAM2's image encoder on window_attention, compared with upstream's blocks."""

import pytest
import torch
from sam2.modeling.backbones.hieradet import Hiera, MultiScaleBlock
from torch import Tensor, nn

from medfocus.kernels import dispatch
from medfocus.models.sam2.architecture import SAM2_ARCHITECTURES
from medfocus.models.sam2.hiera import HieraBlock, replace_blocks
from medfocus.models.sam2.segmenter import Segmenter


def upstream(architecture: str) -> Hiera:
    """Upstream's trunk, with random weights of which none is 0."""
    numbers = SAM2_ARCHITECTURES[architecture]
    torch.manual_seed(23)
    trunk = Hiera(
        embed_dim=numbers.embed_dim,
        num_heads=numbers.num_heads,
        stages=numbers.stages,
        global_att_blocks=numbers.global_att_blocks,
        window_pos_embed_bkg_spatial_size=numbers.window_pos_embed_bkg_spatial_size,
        window_spec=numbers.window_spec,
    )
    for name, parameter in trunk.named_parameters():
        if name.endswith("bias"):  # the padding is a bias: its initial size would hide errors
            nn.init.normal_(parameter, std=0.5)
        elif parameter.abs().max() == 0:
            nn.init.normal_(parameter, std=0.1)
    return trunk.eval()


def ours_like(trunk: Hiera, architecture: str) -> nn.Module:
    """A segmenter's trunk with upstream's weights, loaded by name."""
    ours = Segmenter(architecture).image_encoder.trunk.eval()
    assert all(isinstance(block, HieraBlock) for block in ours.blocks)
    ours.load_state_dict(trunk.state_dict(), strict=True)
    return ours


def assert_same(ours: list[Tensor], expected: list[Tensor]) -> None:
    for level, other in zip(ours, expected, strict=True):
        assert level.shape == other.shape
        assert (level - other).norm() <= 1e-5 * other.norm()


# At 256 the windows of 14 and 7 are cut by grids of 16×16 and 8×8; at 224×288 those of 14 are
# whole in height and cut in width, and those of 16 and 8 are cut in both.
@pytest.mark.parametrize("size", [(256, 256), (224, 288)])
@pytest.mark.parametrize("architecture", SAM2_ARCHITECTURES)
@torch.inference_mode()
def test_the_trunk_equals_upstream(architecture: str, size: tuple[int, int]) -> None:
    trunk = upstream(architecture)
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    assert_same(ours_like(trunk, architecture)(image), trunk(image))
    assert dispatch.last_path("window_attention") == "torch"


@pytest.mark.parametrize("size", [(128, 128), (96, 160)])
@torch.inference_mode()
def test_the_tiny_trunk_through_the_kernel(size: tuple[int, int]) -> None:
    """On the GPU if there is one, otherwise in Triton's interpreter."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trunk = upstream("medfocus_tiny").to(device)
    ours = ours_like(trunk, "medfocus_tiny").to(device)
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2)).to(device)
    with dispatch.using("require"):
        levels = ours(image)
    assert dispatch.last_path("window_attention") == "triton"
    assert dispatch.last_path("masked_attention") == "triton"
    assert_same(levels, trunk(image))


@pytest.mark.parametrize("pooled", [False, True])
def test_gradients_of_a_block_are_upstreams(pooled: bool) -> None:
    """On a grid that cuts the windows; the projection's bias also gets the padding's gradient."""
    torch.manual_seed(3)
    stride = (2, 2) if pooled else None
    block = MultiScaleBlock(6, 12, num_heads=2, window_size=4, q_stride=stride).double()
    nn.init.normal_(block.attn.qkv.bias)
    grid = torch.randn(2, 6, 10, 6, dtype=torch.float64)
    parameters = dict(block.named_parameters())
    expected = torch.autograd.grad(block(grid).square().sum(), list(parameters.values()))
    ours = HieraBlock(block)
    assert set(dict(ours.named_parameters())) == set(parameters)
    found = torch.autograd.grad(ours(grid).square().sum(), list(parameters.values()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("architecture", ["medfocus_tiny", "sam2.1_hiera_tiny"])
def test_export_with_any_batch(architecture: str) -> None:
    trunk = replace_blocks(upstream(architecture))
    images = torch.randn(3, 3, 256, 256, generator=torch.Generator().manual_seed(4))
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(trunk, (images[:2],), dynamic_shapes=(batch,)).module()
    with torch.inference_mode():
        for count in (1, 2, 3):
            assert_same(program(images[:count]), trunk(images[:count]))
