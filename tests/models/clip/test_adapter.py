"""Visual prompts and low-rank changes, compared with a layer-by-layer implementation."""

import copy

import pytest
import torch
from torch import Tensor, nn

from medfocus.errors import WeightsError
from medfocus.models.clip.adapter import apply_adapter
from medfocus.models.clip.architecture import build_vision_tower
from medfocus.models.clip.encoder import FocusCLIP
from medfocus.models.focus import hiding_bias
from tests.errors import refuses

BIOMED = "BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
PROMPTS = 3


def clip_of(architecture: str = "medfocus_tiny") -> FocusCLIP:
    torch.manual_seed(5)
    return FocusCLIP(build_vision_tower(architecture)).eval()


def with_prompts(clip: FocusCLIP) -> FocusCLIP:
    generator = torch.Generator().manual_seed(6)
    clip.prompts = nn.Parameter(
        torch.randn(clip.layers, PROMPTS, clip.width, generator=generator), requires_grad=False
    )
    return clip


def images(clip: FocusCLIP, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, 3, clip.image_size, clip.image_size, generator=generator)


def layer_by_layer(clip: FocusCLIP, image: Tensor, key_bias: Tensor | None) -> Tensor:
    """VPT-deep: the prompts are inserted before each layer, and their rows are dropped after it."""
    assert clip.prompts is not None
    tokens = clip.embed_patches(image)
    for layer, block in enumerate(clip.blocks):
        prompts = clip.prompts[layer].expand(len(image), -1, -1)
        prompted = torch.cat([tokens[:, :1], prompts, tokens[:, 1:]], 1)
        bias = None
        if key_bias is not None:
            bias = torch.zeros(prompted.shape[:2])
            bias[:, 0], bias[:, 1 + PROMPTS :] = key_bias[layer, :, 0], key_bias[layer, :, 1:]
        output = block.run(prompted, bias)
        tokens = torch.cat([output[:, :1], output[:, 1 + PROMPTS :]], 1)
    return clip._project(tokens[:, 0])


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["medfocus_tiny", BIOMED])
@pytest.mark.parametrize("steered", [False, True])
def test_prompts(architecture: str, steered: bool) -> None:
    clip = with_prompts(clip_of(architecture))
    image = images(clip)
    bias = -torch.rand(clip.layers, 2, 1 + clip.grid**2) if steered else None
    expected = layer_by_layer(clip, image, bias)
    torch.testing.assert_close(clip(image, bias), expected, atol=1e-5, rtol=1e-5)
    plain = copy.deepcopy(clip)
    plain.prompts = None
    assert (plain(image, bias) - expected).abs().max() > 0.01


@torch.inference_mode()
def test_prompts_with_kept_tokens() -> None:
    """Each image of a ragged batch has its own copy of the prompts."""
    clip = with_prompts(clip_of())
    image = images(clip, 3)
    keep = torch.rand(3, 1 + clip.grid**2, generator=torch.Generator().manual_seed(8)) > 0.7
    keep[1] = True
    keep[:, 0] = True
    expected = layer_by_layer(clip, image, hiding_bias(keep, clip.layers))
    torch.testing.assert_close(clip.forward_kept(image, keep), expected, atol=1e-5, rtol=1e-5)


def test_prompts_from_a_state_dict() -> None:
    clip = with_prompts(clip_of())
    again = FocusCLIP(build_vision_tower("medfocus_tiny"), PROMPTS).eval()
    again.load_state_dict(clip.state_dict())
    with torch.inference_mode():
        assert torch.equal(again(images(clip)), clip(images(clip)))


def test_a_low_rank_change() -> None:
    clip = clip_of()
    name = "visual.transformer.resblocks.2.attn.in_proj_weight"
    before = {key: value.clone() for key, value in clip.state_dict().items()}
    up, down = torch.randn(384, 4), torch.randn(4, 128)
    apply_adapter(clip, {f"{name}.up": up, f"{name}.down": down})
    after = clip.state_dict()
    assert [key for key in before if not torch.equal(before[key], after[key])] == [name]
    torch.testing.assert_close(after[name], before[name] + up @ down)


@pytest.mark.parametrize(
    "wrong",
    [
        {"nowhere": torch.zeros(3)},
        {"visual.proj": torch.zeros(3)},
        {"prompts": torch.zeros(5, 2, 128)},
        {"prompts": torch.zeros(6, 2, 64)},
        {"visual.proj.up": torch.zeros(128, 4)},
        {"visual.proj.up": torch.zeros(128, 4), "visual.proj.down": torch.zeros(4, 64)},
        {"visual.proj.down": torch.zeros(4, 128)},
    ],
)
def test_an_adapter_that_does_not_fit_changes_nothing(wrong: dict[str, Tensor]) -> None:
    clip = clip_of()
    before = {key: value.clone() for key, value in clip.state_dict().items()}
    fitting = {"visual.ln_post.bias": torch.ones(128)}
    with refuses(WeightsError, "weights.mismatch", "adapter"):
        apply_adapter(clip, {**fitting, **wrong})
    after = clip.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
