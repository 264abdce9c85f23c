"""Whether an answer was made from the lesion: where attention lay, and what the answer hung on."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from medfocus.errors import InputError
from medfocus.models.clip.attention import PackedAttention
from medfocus.models.clip.encoder import FocusCLIP


@torch.inference_mode()
def attention_rollout(clip: FocusCLIP, image: Tensor, key_bias: Tensor | None = None) -> Tensor:
    """Where CLS looks, through all layers (attention rollout, arXiv 2005.00928).

    A layer's attention, the mean over its heads, is mixed half and half with the identity, which
    stands for the residual; the layers' matrices are multiplied.

    Args:
        clip: an image encoder without visual prompts.
        image: (B, 3, R, R) normalised.
        key_bias: (L, B, 1 + g²) as `FocusCLIP.forward` takes it; None is plain CLIP.

    Returns:
        (B, g, g) float32, of each image adding up to 1.

    Raises:
        InputError: visual prompts, or not one bias a layer.
    """
    if clip.prompts is not None:
        raise InputError("CLIP", "has visual prompts", "explain an adaptation without them")
    if key_bias is not None and len(key_bias) != clip.layers:
        shape = f"shape {tuple(key_bias.shape)}"
        raise InputError("key_bias", shape, f"pass one bias a layer: ({clip.layers}, B, 1 + g²)")
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
    """What `attention.forward` weighs the values with: (B, H, N, N) float32, keys last."""
    qkv = F.linear(tokens, *attention.projection())
    # (B, N, 3·H·D) -> q, k: (B, H, N, D)
    parts = qkv.reshape(*qkv.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    scores = parts[0] @ parts[1].transpose(-2, -1) / parts.shape[-1] ** 0.5
    if key_bias is not None:
        scores = scores + key_bias[:, None, None, :]
    probabilities: Tensor = scores.softmax(-1, dtype=torch.float32)
    return probabilities


def mass_inside(attention: Tensor, lesion: Tensor) -> Tensor:
    """Share of the attention that lies on the lesion: (B, g, g) and covered shares -> (B,)."""
    return (attention * lesion).sum((1, 2)) / attention.sum((1, 2))


def pointing_game(attention: Tensor, lesion: Tensor) -> Tensor:
    """Does the patch with the most attention touch the lesion? (B,) bool (arXiv 1608.00507)."""
    place = attention.flatten(1).argmax(1, keepdim=True)
    return lesion.flatten(1).gather(1, place)[:, 0] > 0


def iou(mask: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union: bool (B, h, w) twice -> (B,); nothing against nothing is 1."""
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
    """How fast an answer goes, and comes, with its most important patches (RISE, 1806.07421).

    Patches are replaced by the baseline, or put back into it, the most important first (of equal
    ones that of the lower index), in `steps` steps, equal but for whole patches. Deletion is good
    when it is low, insertion when it is high.

    Args:
        predict: images (B, 3, R, R) to probabilities (B, C).
        image: (B, 3, R, R).
        importance: (B, g, g).
        baseline: what stands for a patch that is gone; broadcast to the image.
        label: (B,) int64, the class whose probability is followed.
        steps: how many.

    Returns:
        areas under the two curves over the share of patches, (B,) each, in [0, 1]; trapezium rule.
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
    # The true shares: whole patches do not divide into equal steps.
    shares = torch.tensor(counts, device=order.device) / patches
    deletion, insertion = (torch.trapezoid(torch.stack(curve, 1), shares) for curve in curves)
    return deletion, insertion
