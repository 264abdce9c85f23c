"""Whether an answer is based on the lesion: attention maps, deletion and insertion."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from medfocus.errors import InputError
from medfocus.models.clip.attention import PackedAttention
from medfocus.models.clip.encoder import FocusCLIP


@torch.inference_mode()
def attention_rollout(clip: FocusCLIP, image: Tensor, key_bias: Tensor | None = None) -> Tensor:
    """The attention of CLS through all layers (attention rollout, arXiv 2005.00928).

    The product over the layers of (A + I) / 2, where A is the mean attention over the heads and
    the identity stands for the residual connection.

    Args:
        clip: an image encoder without visual prompts.
        image: (B, 3, R, R) normalised.
        key_bias: (L, B, 1 + g²) as for `FocusCLIP.forward`; None for plain CLIP.

    Returns:
        (B, g, g) float32, with sum 1 for each image.

    Raises:
        InputError: CLIP has visual prompts, or there is not one bias per layer.
    """
    if clip.prompts is not None:
        raise InputError(
            "CLIP",
            "has visual prompts",
            "explain an adaptation without them",
            code="model.has_prompts",
        )
    if key_bias is not None and len(key_bias) != clip.layers:
        raise InputError(
            "key_bias",
            f"has the shape {tuple(key_bias.shape)}",
            f"pass one bias per layer: ({clip.layers}, B, 1 + g²)",
            code="input.shape_mismatch",
        )
    tokens = clip.embed_patches(image)  # (B, N, W)
    count = tokens.shape[1]
    identity = torch.eye(count, device=tokens.device)
    rollout = identity.expand(tokens.shape[0], -1, -1)
    for layer, block in enumerate(clip.blocks):
        bias = None if key_bias is None else key_bias[layer]
        attention = _probabilities(block.attention, block.norm1(tokens), bias).mean(1)  # (B, N, N)
        rollout = (attention + identity) / 2 @ rollout
        tokens = block.run(tokens, bias)
    patches = rollout[:, 0, 1:]
    patches = patches / patches.sum(1, keepdim=True)
    return patches.reshape(-1, clip.grid, clip.grid)


def _probabilities(attention: PackedAttention, tokens: Tensor, key_bias: Tensor | None) -> Tensor:
    """The weights that `attention.forward` gives the values: (B, H, N, N) float32, keys last."""
    qkv = F.linear(tokens, *attention.projection())
    # (B, N, 3·H·D) -> q, k: (B, H, N, D)
    parts = qkv.reshape(*qkv.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    scores = parts[0] @ parts[1].transpose(-2, -1) / parts.shape[-1] ** 0.5
    if key_bias is not None:
        scores = scores + key_bias[:, None, None, :]
    probabilities: Tensor = scores.softmax(-1, dtype=torch.float32)
    return probabilities


def mass_inside(attention: Tensor, lesion: Tensor) -> Tensor:
    """Share of the attention on the lesion: attention and coverage (B, g, g) -> (B,)."""
    return (attention * lesion).sum((1, 2)) / attention.sum((1, 2))


def pointing_game(attention: Tensor, lesion: Tensor) -> Tensor:
    """Whether the patch with the most attention touches the lesion: (B,) (arXiv 1608.00507)."""
    place = attention.flatten(1).argmax(1, keepdim=True)
    return lesion.flatten(1).gather(1, place)[:, 0] > 0


def iou(mask: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union: two bool (B, h, w) -> (B,); 1 if both are empty."""
    union = (mask | truth).sum((1, 2))
    shared = (mask & truth).sum((1, 2))
    return torch.where(union > 0, shared / union.clamp(min=1), 1.0)


@torch.inference_mode()
def deletion_insertion(
    predict: Callable[[Tensor], Tensor],
    image: Tensor,
    importance: Tensor,
    baseline: Tensor,
    label: Tensor,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Deletion and insertion scores of patch importance (RISE, arXiv 1806.07421).

    Patches are replaced by the baseline (deletion), or inserted into it (insertion), the most
    important first and ties by index, in `steps` steps of nearly equal numbers of patches. Lower
    deletion and higher insertion are better.

    Args:
        predict: images (B, 3, R, R) to probabilities (B, C).
        image: (B, 3, R, R).
        importance: (B, g, g).
        baseline: replaces deleted patches; broadcast to the image.
        label: (B,) int64, the class whose probability is tracked.
        steps: number of steps.

    Returns:
        areas under the two curves over the share of patches, (B,) each, in [0, 1] (trapezium rule).
    """
    grid = importance.shape[1]
    patches = grid * grid
    order = importance.flatten(1).argsort(stable=True, dim=1, descending=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(patches, device=order.device).expand_as(order)
    )
    size = image.shape[-1] // grid
    curves: tuple[list[Tensor], list[Tensor]] = ([], [])
    counts = [round(step * patches / steps) for step in range(steps + 1)]
    for count in counts:
        first = rank < count  # the most important so far
        pixels = first.reshape(-1, grid, grid)
        pixels = pixels.repeat_interleave(size, 1).repeat_interleave(size, 2)[:, None]
        for curve, gone in zip(curves, (pixels, ~pixels), strict=True):
            probabilities = predict(torch.where(gone, baseline, image))
            curve.append(probabilities.gather(1, label[:, None])[:, 0])
    # The actual shares: the patches may not divide into equal steps.
    shares = torch.tensor(counts, device=order.device) / patches
    deletion, insertion = (torch.trapezoid(torch.stack(curve, 1), shares) for curve in curves)
    return deletion, insertion
