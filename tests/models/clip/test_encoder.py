"""FocusCLIP, compared with open_clip's image encoder at full size, with seeded random weights."""

import copy
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from medfocus.errors import InputError
from medfocus.kernels import dispatch
from medfocus.models.clip.architecture import build_vision_tower
from medfocus.models.clip.attention import OpenClipAttention
from medfocus.models.clip.encoder import FocusCLIP
from medfocus.models.focus import HIDDEN
from tests.errors import refuses

BIOMED = "BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"


def towers(architecture: str) -> tuple[Any, FocusCLIP]:
    """Upstream's tower and ours, with the same random weights."""
    torch.manual_seed(7)
    upstream = build_vision_tower(architecture).eval()
    # Biases are initialised to 0, which would hide one that is left out.
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
@pytest.mark.parametrize(
    "architecture",
    ["ViT-B-16", pytest.param("ViT-L-14-336", marks=pytest.mark.long), BIOMED, "medfocus_tiny"],
)
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
def test_weight_names_are_upstreams(architecture: str) -> None:
    upstream, ours = towers(architecture)
    assert set(ours.visual.state_dict()) == set(upstream.state_dict())
    ours.visual.load_state_dict(upstream.state_dict())


def hiding(clip: FocusCLIP, keep: torch.Tensor) -> torch.Tensor:
    """(B, 1 + g²) bool -> the bias that hides the other tokens in every layer."""
    return torch.where(keep, 0.0, HIDDEN).expand(clip.layers, -1, -1)


def kept_patches(clip: FocusCLIP, count: int, share: float = 0.3) -> torch.Tensor:
    """(B, 1 + g²) bool: CLS and a random share of the patches, different in each image."""
    generator = torch.Generator().manual_seed(5)
    keep = torch.rand(count, 1 + clip.grid**2, generator=generator) < share
    keep[:, 0] = True
    return keep


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["ViT-B-16", BIOMED])
def test_a_bias_of_zero_equals_plain(architecture: str) -> None:
    _, clip = towers(architecture)
    batch = images(clip, 2)
    bias = -5 * torch.rand(clip.layers, 2, 1 + clip.grid**2)
    assert relative_error(clip(batch, 0 * bias), clip(batch)) <= 1e-5
    assert relative_error(clip(batch, bias), clip(batch)) > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["ViT-B-16", BIOMED, "medfocus_tiny"])
def test_the_last_layer_is_the_cls_row_of_a_whole_layer(architecture: str) -> None:
    """Each layer has its own bias; the reference runs every layer on every token."""
    _, clip = towers(architecture)
    batch = images(clip, 2)
    bias = -5 * torch.rand(clip.layers, 2, 1 + clip.grid**2)
    tokens = clip.embed_patches(batch)
    for block, layer_bias in zip(clip.blocks, bias, strict=True):
        tokens = block.run(tokens, layer_bias)
    assert relative_error(clip(batch, bias), clip._project(tokens[:, 0])) <= 1e-5
    assert dispatch.last_path("cls_attention") == "torch"


def test_the_last_layer_has_the_gradients_of_a_whole_layer() -> None:
    _, clip = towers("medfocus_tiny")
    block = clip.blocks[-1]
    tokens = torch.randn(2, 1 + clip.grid**2, clip.width)
    bias = -5 * torch.rand(2, 1 + clip.grid**2)
    parameters = list(block.attention.parameters())
    cls = torch.autograd.grad(block.run_cls(tokens, bias).square().sum(), parameters)
    whole = torch.autograd.grad(block.run(tokens, bias)[:, 0].square().sum(), parameters)
    for ours, expected in zip(cls, whole, strict=True):
        assert relative_error(ours, expected) <= 1e-4


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["ViT-B-16", BIOMED])
def test_hidden_patches_equal_dropped_tokens(architecture: str) -> None:
    """The reference drops the tokens before the first layer and runs upstream's layers."""
    upstream, clip = towers(architecture)
    batch = images(clip, 2)
    keep = kept_patches(clip, 2)
    hidden = clip(batch, hiding(clip, keep))
    kept = clip.forward_kept(batch, keep)
    for row in range(2):
        dropped = run_on_tokens(upstream, batch[row : row + 1], keep[row])
        assert relative_error(hidden[row : row + 1], dropped) <= 1e-5
        assert relative_error(kept[row : row + 1], dropped) <= 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["ViT-B-16", BIOMED])
def test_kept_tokens_equal_masked_dense(architecture: str) -> None:
    """Also in a batch with images of which all patches, or only CLS, are kept."""
    _, clip = towers(architecture)
    batch = images(clip, 4)
    keep = kept_patches(clip, 4)
    keep[1], keep[2, 1:] = True, False
    dense = clip(batch, hiding(clip, keep))
    kept = clip.forward_kept(batch, keep)
    assert dispatch.last_path("masked_attention_varlen") == "torch"
    assert relative_error(kept, dense) <= 1e-5
    assert relative_error(kept[1:2], clip(batch[1:2])) <= 1e-5
    keep[:, 0] = False
    assert torch.equal(clip.forward_kept(batch, keep), kept)
    clip, batch = clip.bfloat16(), batch.bfloat16()
    keep[:, 0] = True
    dense = clip(batch, hiding(clip, keep))
    cosine = F.cosine_similarity(clip.forward_kept(batch, keep).double(), dense.double())
    assert cosine.min() >= 0.9999


@torch.inference_mode()
def test_kept_tokens_through_the_kernel() -> None:
    _, clip = towers("medfocus_tiny")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clip, batch = clip.to(device), images(clip, 2).to(device)
    keep = kept_patches(clip, 2).to(device)
    dense = clip(batch, hiding(clip, keep))
    with dispatch.using("require"):
        kept = clip.forward_kept(batch, keep)
    assert dispatch.last_path("masked_attention_varlen") == "triton"
    assert relative_error(kept, dense) <= 1e-5


@torch.inference_mode()
def test_the_cost_is_that_of_the_kept_tokens() -> None:
    """30% of the patches cost at most 0.35 of the dense FLOP."""
    _, clip = towers("ViT-B-16")
    batch = images(clip, 1)
    keep = (torch.arange(1 + clip.grid**2) <= 0.3 * clip.grid**2)[None]
    with FlopCounterMode(display=False) as dense:
        clip(batch, hiding(clip, keep))
    with FlopCounterMode(display=False) as kept:
        clip.forward_kept(batch, keep)
    assert kept.get_total_flops() <= 0.35 * dense.get_total_flops()


@pytest.mark.parametrize("shape", [(2, 50), (11, 2, 50), (13, 2, 50), (12, 1, 2, 50)])
def test_a_bias_that_is_not_one_per_layer_is_refused(shape: tuple[int, ...]) -> None:
    clip = FocusCLIP(build_vision_tower("ViT-B-32"))
    with refuses(InputError, "input.invalid", "key_bias"):
        clip(images(clip, 2), torch.zeros(shape))


@pytest.mark.parametrize(
    "keep", [torch.ones(2, 197), torch.ones(2, 196, dtype=torch.bool), torch.ones(197) > 0]
)
def test_tokens_to_keep_that_do_not_fit_are_refused(keep: torch.Tensor) -> None:
    clip = FocusCLIP(build_vision_tower("medfocus_tiny"))
    with refuses(InputError, "input.invalid", "keep"):
        clip.forward_kept(images(clip, 2), keep)


def run_on_tokens(upstream: Any, image: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    if hasattr(upstream, "transformer"):
        tokens = upstream._embeds(image)[:, keep]
        for block in upstream.transformer.resblocks:
            tokens = block(tokens)
        return upstream._pool(tokens)[0] @ upstream.proj
    trunk = upstream.trunk
    tokens = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(image)))[:, keep]
    return upstream.head(trunk.forward_head(trunk.norm(trunk.blocks(tokens))))


@torch.inference_mode()
def test_the_soft_bias_equals_the_formula_in_float64() -> None:
    """In one layer, at strength 1: attention is proportional to m · exp(s)."""
    _, clip = towers("medfocus_tiny")
    clip = clip.double()
    batch = images(clip, 2).double()
    focus = torch.rand(2, 1 + clip.grid**2, dtype=torch.float64).clamp(min=0.05)
    focus[:, 0] = 1
    tokens = clip.embed_patches(batch)
    block = clip.blocks[0]
    normed = block.norm1(tokens)
    attention = block.attention
    assert isinstance(attention, OpenClipAttention)
    ours = attention(normed, focus.log())
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    q, k, v = (normed @ weight.T + bias).chunk(3, -1)
    heads = []
    for head in range(2):
        columns = slice(head * 64, head * 64 + 64)
        score = (q[..., columns] @ k[..., columns].transpose(1, 2) / 8).exp() * focus[:, None, :]
        heads.append(score / score.sum(-1, keepdim=True) @ v[..., columns])
    expected = attention.out_proj(torch.cat(heads, -1))
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("architecture", "named"), [("coca_ViT-B-32", "CLS"), ("RN50", "ResNet")])
def test_towers_that_do_not_read_only_cls_are_refused(architecture: str, named: str) -> None:
    with refuses(InputError, "model.unsupported", "CLIP image encoder") as caught:
        FocusCLIP(build_vision_tower(architecture))
    assert named in caught.value.problem


def test_an_unknown_architecture_is_refused() -> None:
    with refuses(InputError, "model.unknown", "'ViT-Z'") as caught:
        build_vision_tower("ViT-Z")
    assert "medfocus_tiny" in caught.value.hint
