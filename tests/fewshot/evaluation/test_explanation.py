"""Attention rollout, deletion and insertion, compared with direct implementations."""

import pytest
import torch
from torch import Tensor

from medfocus.errors import InputError
from medfocus.fewshot.evaluation.explanation import (
    _probabilities,
    attention_rollout,
    deletion_insertion,
    iou,
    mass_inside,
    pointing_game,
)
from medfocus.models.clip.architecture import build_vision_tower
from medfocus.models.clip.encoder import FocusCLIP
from tests.errors import refuses

BIOMED = "BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"


def build_clip(architecture: str, prompts: int = 0) -> FocusCLIP:
    """With weights and biases large enough for attention to differ between patches."""
    torch.manual_seed(9)
    clip = FocusCLIP(build_vision_tower(architecture), prompts).eval()
    for block in clip.blocks:
        for parameter in block.attention.projection():
            assert parameter is not None
            torch.nn.init.normal_(parameter, std=0.2)
    return clip


def rollout_in_float64(clip: FocusCLIP, image: Tensor, bias: Tensor | None) -> Tensor:
    """Head by head and query by query, on open_clip's own parameters."""
    clip, image = clip.double(), image.double()
    tokens = clip.embed_patches(image)[0]
    total = torch.eye(len(tokens), dtype=torch.float64)
    for layer, block in enumerate(clip.blocks):
        attention = clip.visual.transformer.resblocks[layer].attn
        normed = block.norm1(tokens)
        q, k, v = (normed @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, -1)
        mean, out = torch.zeros(len(tokens), len(tokens), dtype=torch.float64), []
        for head in range(attention.num_heads):
            part = slice(64 * head, 64 * head + 64)
            scores = q[:, part] @ k[:, part].T / 8
            if bias is not None:
                scores = scores + bias[layer, 0].double()
            shares = scores.softmax(-1)
            mean += shares / attention.num_heads
            out.append(shares @ v[:, part])
        tokens = tokens + attention.out_proj(torch.cat(out, -1))
        tokens = tokens + block.mlp(block.norm2(tokens))
        total = (0.5 * mean + 0.5 * torch.eye(len(tokens), dtype=torch.float64)) @ total
    patches = total[0, 1:]
    clip.float()
    return (patches / patches.sum()).reshape(1, clip.grid, clip.grid)


@torch.no_grad()
@pytest.mark.parametrize("steered", [False, True])
def test_rollout(steered: bool) -> None:
    clip = build_clip("medfocus_tiny")
    image = torch.randn(1, 3, 112, 112)
    bias = -4 * torch.rand(6, 1, 197) if steered else None
    ours = attention_rollout(clip, image, bias)
    expected = rollout_in_float64(clip, image, bias)
    torch.testing.assert_close(ours.double(), expected, atol=1e-6, rtol=1e-4)
    assert float(expected.max() / expected.min()) > 1.5


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["medfocus_tiny", BIOMED])
def test_the_attention_is_that_of_the_layer(architecture: str) -> None:
    """Values weighted by it give the layer's own output, with a bias and without."""
    clip = build_clip(architecture)
    tokens = torch.randn(2, 1 + clip.grid**2, clip.width)
    block = clip.blocks[0]
    attention, normed = block.attention, block.norm1(tokens)
    weight, offset = attention.projection()
    assert offset is not None
    values = (normed @ weight.T + offset)[..., 2 * clip.width :]
    values = values.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)  # (B, H, N, D)
    for bias in (None, -4 * torch.rand(2, 1 + clip.grid**2)):
        shares = _probabilities(attention, normed, bias)
        attended = attention.output((shares @ values).transpose(1, 2).flatten(2))
        after = tokens + block.scale1(attended)
        after = after + block.scale2(block.mlp(block.norm2(after)))
        torch.testing.assert_close(after, block.run(tokens, bias), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_rollout_of_any_precision() -> None:
    clip = build_clip("medfocus_tiny")
    image = torch.randn(2, 3, 112, 112)
    expected = attention_rollout(clip, image)
    torch.testing.assert_close(expected.sum((1, 2)), torch.ones(2))
    double = attention_rollout(clip.double(), image.double())
    torch.testing.assert_close(double, expected, atol=1e-6, rtol=1e-4)


def test_rollout_refuses_prompts_and_missing_biases() -> None:
    image = torch.randn(1, 3, 112, 112)
    with refuses(InputError, "model.has_prompts", "CLIP"):
        attention_rollout(build_clip("medfocus_tiny", prompts=2), image)
    for layers in (5, 7):
        with refuses(InputError, "input.shape_mismatch", "key_bias"):
            attention_rollout(build_clip("medfocus_tiny"), image, torch.zeros(layers, 1, 197))


def test_mass_and_pointing() -> None:
    attention = torch.tensor([[[0.1, 0.2], [0.3, 0.4]], [[0.4, 0.4], [0.1, 0.1]]])
    lesion = torch.tensor([[[0.0, 0.0], [0.5, 1.0]], [[0.0, 1.0], [0.0, 0.0]]])
    torch.testing.assert_close(mass_inside(attention, lesion), torch.tensor([0.55, 0.4]))
    # Of two patches with equal attention, the first counts.
    assert pointing_game(attention, lesion).tolist() == [True, False]


def test_iou() -> None:
    mask = torch.tensor([[[1, 1, 0]], [[0, 0, 0]], [[0, 0, 0]]], dtype=torch.bool)
    truth = torch.tensor([[[0, 1, 1]], [[0, 0, 0]], [[1, 0, 0]]], dtype=torch.bool)
    torch.testing.assert_close(iou(mask, truth), torch.tensor([1 / 3, 1.0, 0.0]))


def test_deletion_and_insertion() -> None:
    """A classifier that reads four pixels with known weights, so that each curve is known."""
    weights = torch.tensor([[0.4, 0.1], [0.3, 0.2]])

    def predict(pictures: Tensor) -> Tensor:
        score = (pictures[:, 0, ::2, ::2] * weights).sum((1, 2))
        return torch.stack([1 - score, score], 1)

    image = torch.ones(1, 3, 4, 4)
    order = torch.tensor([[[4.0, 1.0], [3.0, 2.0]]])  # most important first: 0.4, 0.3, 0.2, 0.1
    label = torch.tensor([1])
    deletion, insertion = deletion_insertion(predict, image, order, torch.zeros(()), label, 4)
    # 1, 0.6, 0.3, 0.1, 0 and 0, 0.4, 0.7, 0.9, 1
    torch.testing.assert_close(deletion, torch.tensor([(0.5 + 0.6 + 0.3 + 0.1) / 4]))
    torch.testing.assert_close(insertion, torch.tensor([(0.4 + 0.7 + 0.9 + 0.5) / 4]))
    backwards, _ = deletion_insertion(predict, image, -order, torch.zeros(()), label, 4)
    assert float(backwards) > float(deletion)


def areas_one_by_one(
    weight: Tensor, image: Tensor, importance: Tensor, baseline: Tensor, label: int, steps: int
) -> tuple[float, float]:
    """Patch by patch in float64, for one image and a softmax of linear scores."""
    grid = len(importance)
    size = image.shape[-1] // grid
    places = sorted(range(grid * grid), key=lambda p: -float(importance.flatten()[p]))
    counts = [round(step * grid * grid / steps) for step in range(steps + 1)]
    areas = []
    for start, end in ((image, baseline), (baseline, image)):
        curve = []
        for count in counts:
            picture = start.clone()
            for place in places[:count]:
                row, column = size * (place // grid), size * (place % grid)
                part = (slice(None), slice(row, row + size), slice(column, column + size))
                picture[part] = end[part]
            curve.append(float((weight @ picture.flatten()).softmax(0)[label]))
        areas.append(
            sum(
                (curve[i] + curve[i + 1]) / 2 * (counts[i + 1] - counts[i]) / grid**2
                for i in range(steps)
            )
        )
    return areas[0], areas[1]


@pytest.mark.parametrize(("grid", "steps"), [(2, 4), (3, 4), (4, 3), (3, 20), (6, 7)])
def test_deletion_and_insertion_patch_by_patch(grid: int, steps: int) -> None:
    """Also if the steps are unequal, with ties, and with a baseline that is not 0."""
    generator = torch.Generator().manual_seed(8)
    side = 2 * grid
    image = torch.randn(3, 3, side, side, generator=generator, dtype=torch.float64)
    weight = torch.randn(2, 3 * side * side, generator=generator, dtype=torch.float64)
    weight.requires_grad_()
    importance = torch.randint(3, (3, grid, grid), generator=generator).double()
    baseline = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)[:, None, None]
    label = torch.tensor([0, 1, 0])

    def predict(pictures: Tensor) -> Tensor:
        return (pictures.flatten(1) @ weight.T).softmax(-1)

    ours = deletion_insertion(predict, image, importance, baseline, label, steps)
    assert not any(area.requires_grad for area in ours)
    for row in range(3):
        expected = areas_one_by_one(
            weight.detach(),
            image[row],
            importance[row],
            baseline.expand_as(image[row]),
            int(label[row]),
            steps,
        )
        assert [float(area[row]) for area in ours] == pytest.approx(expected, abs=1e-7)
