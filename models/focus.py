"""The focus modes' own parts: what `hard` keeps and `overlay` paints.

`soft` is `kernels.focus_bias`.
"""

import torch
from torch import Tensor

from medfocus.settings import Focus

# What hides a key altogether. exp(-1e4) is exactly 0 in float32, float16 and bfloat16, as with
# -inf, but -1e4 is a finite float16, and stays harmless in sums.
HIDDEN = -1e4

OVERLAY_COLOUR = (1.0, 0.85, 0.0)  # RGB in [0, 1]; yellow keeps off the grey axis of most scans
OVERLAY_OPACITY = 0.35  # low enough to leave the texture, which the paper's ablation needs


def pool_focus(focus_logits: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Average the mask's probability over each cell of the classifier's frame.

    `rows · sigmoid(logits) · colsᵀ`: the weights are area overlaps, so this is the exact average
    over a cell's footprint, whatever the crop or padding.

    Args:
        focus_logits: (B, h, w).
        rows: (B, n, h) and cols: (B, n, w), from `Geometry`.

    Returns:
        (B, n, n) in [0, 1]; what lies outside the image counts as 0.
    """
    return rows @ focus_logits.sigmoid() @ cols.transpose(-2, -1)


def is_focused(patch_focus: Tensor, focus: Focus) -> Tensor:
    """(B, g, g) -> (B,) bool: does CLIP see any of the region?"""
    return patch_focus.amax((-2, -1)) > focus.visible


def kept_tokens(patch_focus: Tensor, focused: Tensor, focus: Focus) -> Tensor:
    """The tokens that `hard` leaves: CLS, patches above the threshold, all where not focused.

    Args:
        patch_focus: (B, g, g) in [0, 1].
        focused: (B,) bool.
        focus: the threshold.

    Returns:
        (B, 1 + g²) bool.
    """
    keep = (patch_focus > focus.hard_threshold).flatten(1) | ~focused[:, None]
    # The CLS key stands first. Not F.pad: TensorRT's parser has no Pad of booleans.
    return torch.cat([torch.ones_like(keep[:, :1]), keep], 1)


def hiding_bias(keep: Tensor, layers: int) -> Tensor:
    """The bias that leaves the kept tokens alone: (B, N) bool -> (L, B, N) float32."""
    return torch.where(keep, 0.0, HIDDEN).expand(layers, -1, -1)


def paint(image: Tensor, pixel_focus: Tensor, colour: Tensor) -> Tensor:
    """Paint the focus over a normalised image, texture kept.

    (B, 3, R, R), (B, R, R), and the normalised colour, (3,).
    """
    opacity = OVERLAY_OPACITY * pixel_focus[:, None]
    return image * (1 - opacity) + colour[None, :, None, None] * opacity


def patches_from_pixels(pixel_focus: Tensor, grid: int) -> Tensor:
    """(B, R, R) -> (B, g, g): areas add up, so the mean over a patch's pixels is its focus."""
    size = pixel_focus.shape[-1] // grid
    return pixel_focus.reshape(-1, grid, size, grid, size).mean((2, 4))
