"""Attention and what answers hang on, against the definitions written out."""

import pytest
import torch
from torch import Tensor

from medfocus.fewshot.evaluation.explanation import (
    attention_rollout,
    deletion_insertion,
    iou,
    mass_inside,
    pointing_game,
)
from medfocus.models.architectures import build_vision_tower
from medfocus.models.clip import FocusCLIP


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
    torch.manual_seed(9)
    clip = FocusCLIP(build_vision_tower("medfocus_tiny")).eval()
    for block in clip.visual.transformer.resblocks:
        torch.nn.init.normal_(block.attn.in_proj_weight, std=0.2)
        torch.nn.init.normal_(block.attn.in_proj_bias, std=0.2)
    image = torch.randn(1, 3, 112, 112)
    bias = -4 * torch.rand(6, 1, 197) if steered else None
    ours = attention_rollout(clip, image, bias)
    expected = rollout_in_float64(clip, image, bias)
    torch.testing.assert_close(ours.double(), expected, atol=1e-6, rtol=1e-4)
    assert float(expected.max() / expected.min()) > 1.5


def test_mass_and_pointing() -> None:
    attention = torch.tensor([[[0.1, 0.2], [0.3, 0.4]], [[0.4, 0.4], [0.1, 0.1]]])
    lesion = torch.tensor([[[0.0, 0.0], [0.5, 1.0]], [[0.0, 1.0], [0.0, 0.0]]])
    torch.testing.assert_close(mass_inside(attention, lesion), torch.tensor([0.55, 0.4]))
    # Of two patches with the most, the first is taken.
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
