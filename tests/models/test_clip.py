"""FocusCLIP against open_clip's own image encoder, full size, seeded random weights."""

import copy

import open_clip
import pytest
import torch

from medfocus.errors import InputError
from medfocus.models.architectures import build_vision_tower
from medfocus.models.clip import FocusCLIP
from medfocus.models.focus import HIDDEN

BIOMED = "BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"


def towers(architecture: str) -> tuple[torch.nn.Module, FocusCLIP]:
    """Upstream's tower and ours, with the same random weights."""
    torch.manual_seed(7)
    upstream = build_vision_tower(architecture).eval()
    # Freshly initialised biases are 0 and would hide a bias that is dropped.
    for name, parameter in upstream.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return upstream, FocusCLIP(copy.deepcopy(upstream)).eval()


def images(clip: FocusCLIP, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.randn(count, 3, clip.image_size, clip.image_size, generator=generator)


def relative_error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return float(((ours - reference).norm(dim=-1) / reference.norm(dim=-1)).max())


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["ViT-B-16", "ViT-L-14-336", BIOMED, "medfocus_tiny"])
def test_plain_embedding_equals_upstream(architecture: str) -> None:
    upstream, ours = towers(architecture)
    batch = images(ours, 2)
    assert relative_error(ours(batch), upstream(batch)) <= 1e-5


@torch.inference_mode()
def test_encode_image_of_a_whole_open_clip_model() -> None:
    torch.manual_seed(3)
    model = open_clip.create_model("ViT-B-16", pretrained=None, load_weights=False).eval()
    ours = FocusCLIP(copy.deepcopy(model.visual)).eval()
    batch = images(ours, 3)
    assert relative_error(ours(batch), model.encode_image(batch)) <= 1e-5


@pytest.mark.parametrize("architecture", ["ViT-B-16", BIOMED])
def test_weight_names_stay_upstreams(architecture: str) -> None:
    upstream, ours = towers(architecture)
    assert set(ours.visual.state_dict()) == set(upstream.state_dict())
    ours.visual.load_state_dict(upstream.state_dict())


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["ViT-B-16", BIOMED])
def test_strength_zero_equals_plain(architecture: str) -> None:
    _, clip = towers(architecture)
    batch = images(clip, 2)
    bias = -5 * torch.rand(2, 1 + clip.grid**2)
    steered = clip(batch, bias, torch.zeros(clip.layers))
    assert relative_error(steered, clip(batch)) <= 1e-5
    assert relative_error(clip(batch, bias, torch.ones(clip.layers)), clip(batch)) > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["ViT-B-16", BIOMED])
def test_hidden_patches_equal_dropped_tokens(architecture: str) -> None:
    """The reference drops the tokens before the first layer and runs upstream's own layers."""
    upstream, clip = towers(architecture)
    batch = images(clip, 2)
    generator = torch.Generator().manual_seed(5)
    kept = torch.rand(2, clip.grid**2, generator=generator) < 0.3
    bias = torch.where(kept, 0.0, HIDDEN)
    bias = torch.nn.functional.pad(bias, (1, 0))
    hidden = clip(batch, bias)
    for row in range(2):
        tokens = torch.cat([torch.tensor([True]), kept[row]])
        dropped = run_on_tokens(upstream, batch[row : row + 1], tokens)
        assert relative_error(hidden[row : row + 1], dropped) <= 1e-5


def run_on_tokens(
    upstream: torch.nn.Module, image: torch.Tensor, keep: torch.Tensor
) -> torch.Tensor:
    if hasattr(upstream, "transformer"):
        tokens = upstream._embeds(image)[:, keep]
        for block in upstream.transformer.resblocks:
            tokens = block(tokens)
        return upstream._pool(tokens)[0] @ upstream.proj
    trunk = upstream.trunk
    tokens = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(image)))[:, keep]
    return upstream.head(trunk.forward_head(trunk.norm(trunk.blocks(tokens))))


@torch.inference_mode()
def test_soft_bias_against_attention_written_out_in_float64() -> None:
    """One layer by hand: attention proportional to m · exp(s) at strength 1."""
    _, clip = towers("medfocus_tiny")
    clip = clip.double()
    batch = images(clip, 2).double()
    focus = torch.rand(2, 1 + clip.grid**2, dtype=torch.float64).clamp(min=0.05)
    focus[:, 0] = 1
    tokens = clip._embed(batch)
    block = clip.blocks[0]
    normed = block.norm1(tokens)
    ours = block.attention(normed, focus.log())
    weight, bias = block.attention.in_proj_weight, block.attention.in_proj_bias
    q, k, v = (normed @ weight.T + bias).chunk(3, -1)
    heads = []
    for part in range(2):
        columns = slice(part * 64, part * 64 + 64)
        score = (q[..., columns] @ k[..., columns].transpose(1, 2) / 8).exp() * focus[:, None, :]
        heads.append(score / score.sum(-1, keepdim=True) @ v[..., columns])
    expected = block.attention.out_proj(torch.cat(heads, -1))
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_towers_that_do_not_read_cls_alone_are_refused() -> None:
    with pytest.raises(InputError, match="CLS"):
        FocusCLIP(build_vision_tower("coca_ViT-B-32"))
    with pytest.raises(InputError, match="no vision transformer"):
        FocusCLIP(build_vision_tower("RN50"))


def test_unknown_architecture_is_named() -> None:
    with pytest.raises(InputError, match=r"'ViT-Z'.*medfocus_tiny"):
        build_vision_tower("ViT-Z")
