"""Building blocks of the focus modes: what `hard` keeps and `overlay` paints.

`soft` is `kernels.focus_bias`.
"""

import torch
from torch import Tensor

from medfocus.settings import Focus

# The bias that hides a key completely. exp(-1e4) is exactly 0 in float32, float16 and bfloat16,
# like exp(-inf), but -1e4 is finite in float16, and sums with it stay finite.
HIDDEN = -1e4

OVERLAY_COLOUR = (1.0, 0.85, 0.0)  # RGB in [0, 1]; yellow differs from the grey of most scans
OVERLAY_OPACITY = 0.35  # low enough to keep the texture, which the paper's ablation needs


def pool_focus(focus_logits: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Average the mask's probability over each cell of the classifier's frame.

    `rows · sigmoid(logits) · colsᵀ`: the weights are area overlaps, so this is the exact average
    over a cell's footprint, whatever the crop or padding.

    Args:
        focus_logits: (B, h, w).
        rows: (B, n, h) and cols: (B, n, w), from `pooling_weights`.

    Returns:
        (B, n, n) in [0, 1]; positions outside the image count as 0.
    """
    return rows @ focus_logits.sigmoid() @ cols.transpose(-2, -1)


def is_focused(patch_focus: Tensor, focus: Focus) -> Tensor:
    """(B, g, g) -> (B,) bool: whether CLIP sees any of the region."""
    return patch_focus.amax((-2, -1)) > focus.visible


def kept_tokens(patch_focus: Tensor, focused: Tensor, focus: Focus) -> Tensor:
    """The tokens that `hard` keeps: CLS and patches above the threshold; all where not focused.

    Args:
        patch_focus: (B, g, g) in [0, 1].
        focused: (B,) bool.
        focus: for the threshold.

    Returns:
        (B, 1 + g²) bool.
    """
    keep = (patch_focus > focus.hard_threshold).flatten(1) | ~focused[:, None]
    # The CLS key is the first. Not F.pad: TensorRT's parser has no Pad of booleans.
    return torch.cat([torch.ones_like(keep[:, :1]), keep], 1)


def hiding_bias(keep: Tensor, layers: int) -> Tensor:
    """The bias that hides all but the kept tokens: (B, N) bool -> (L, B, N) float32."""
    return torch.where(keep, 0.0, HIDDEN).expand(layers, -1, -1)


def paint(image: Tensor, pixel_focus: Tensor, colour: Tensor) -> Tensor:
    """Blend a colour over a normalised image where the focus is, keeping its texture.

    Args:
        image: (B, 3, R, R), normalised.
        pixel_focus: (B, R, R) in [0, 1].
        colour: (3,), normalised like the image.
    """
    opacity = OVERLAY_OPACITY * pixel_focus[:, None]
    return image * (1 - opacity) + colour[None, :, None, None] * opacity


def patches_from_pixels(pixel_focus: Tensor, grid: int) -> Tensor:
    """(B, R, R) -> (B, g, g): a patch's focus is the mean over its pixels, as areas add up."""
    size = pixel_focus.shape[-1] // grid
    return pixel_focus.reshape(-1, grid, size, grid, size).mean((2, 4))
