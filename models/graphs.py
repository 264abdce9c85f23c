"""The two graphs that every engine runs; in any runtime, they are the whole computation."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfocus.errors import InputError
from medfocus.kernels import focus_bias
from medfocus.models.clip.encoder import FocusCLIP
from medfocus.models.focus import (
    OVERLAY_COLOUR,
    hiding_bias,
    is_focused,
    kept_tokens,
    paint,
    patches_from_pixels,
    pool_focus,
)
from medfocus.models.sam2.segmenter import Segmenter
from medfocus.models.sam2.selection import select_focus
from medfocus.settings import Focus, Selection


class SegmenterOutput(NamedTuple):
    """One focus mask per image.

    Attributes:
        focus_logits: (B, h, w) in SAM2's square frame; all -32 where no region was found.
        score: (B,) predicted IoU × stability of the best candidate; 0 where none passed.
    """

    focus_logits: Tensor
    score: Tensor


class ClassifierOutput(NamedTuple):
    """The classification, and where the model was made to look.

    Attributes:
        embedding: (B, E), as open_clip's `encode_image` returns it.
        probabilities: (B, C).
        patch_focus: (B, g, g) in [0, 1].
        focused: (B,) bool; False where CLIP ran without steering.
    """

    embedding: Tensor
    probabilities: Tensor
    patch_focus: Tensor
    focused: Tensor


class Cache(NamedTuple):
    """Few-shot images stored in a classifier (Tip-Adapter, arXiv 2207.09519).

    For each key, exp(-sharpness · (1 - cosine to the key)) times its values is added to an image's
    logits.

    Attributes:
        keys: (M, E) embeddings of length 1.
        values: (M, C) the one-hot class of each key, times a factor.
        sharpness: ().
    """

    keys: Tensor
    values: Tensor
    sharpness: Tensor


def class_logits(
    unit: Tensor, class_embeddings: Tensor, logit_scale: Tensor, cache: Cache | None
) -> Tensor:
    """Logits (B, C) from embeddings (B, E) and class embeddings (C, E), both of length 1."""
    logits = logit_scale * (unit @ class_embeddings.T)
    if cache is None:
        return logits
    return logits + (cache.sharpness * (unit @ cache.keys.T - 1)).exp() @ cache.values


class SegmenterGraph(nn.Module):
    """Images and prompts to focus masks: the segmenter, then the selection."""

    def __init__(self, segmenter: Segmenter, selection: Selection) -> None:
        super().__init__()
        self.segmenter, self.selection = segmenter, selection

    def forward(self, image: Tensor, points: Tensor, labels: Tensor) -> SegmenterOutput:
        """See `Segmenter.forward` for the arguments."""
        mask_logits, predicted_iou = self.segmenter(image, points, labels)
        return SegmenterOutput(*select_focus(mask_logits, predicted_iou, self.selection))


class ClassifierGraph(nn.Module):
    """Images and focus masks to probabilities: pooling, bias, CLIP, head, softmax.

    Args:
        clip: the image encoder.
        focus: how the mask steers it.
        class_embeddings: (C, E); logits are `logit_scale · normalised embedding · eᵀ`.
        logit_scale: CLIP's factor on the cosine, after exp.
        strength: (L,) λ of each layer; used by `soft`.
        mean, std: of the classifier's normalisation, three each; used by `overlay`.
        cache: few-shot images that add to the logits, if any.

    Raises:
        InputError: head and encoder do not fit together.
    """

    colour: Tensor

    def __init__(
        self,
        clip: FocusCLIP,
        focus: Focus,
        class_embeddings: Tensor,
        logit_scale: Tensor,
        strength: Tensor,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        cache: Cache | None = None,
    ) -> None:
        super().__init__()
        if strength.shape != (clip.layers,):
            raise InputError(
                "strength",
                f"shape {tuple(strength.shape)}",
                f"pass one λ per layer: ({clip.layers},)",
            )
        if class_embeddings.ndim != 2 or class_embeddings.shape[1] != clip.embedding_size:
            raise InputError(
                "class_embeddings",
                f"shape {tuple(class_embeddings.shape)}",
                f"pass (C, {clip.embedding_size}), the size of this CLIP's embeddings",
            )
        self.clip, self.focus = clip, focus
        self.class_embeddings = nn.Parameter(F.normalize(class_embeddings, dim=-1))
        self.logit_scale = nn.Parameter(logit_scale)
        self.strength = nn.Parameter(strength)
        self.cache = None if cache is None else nn.ParameterList(cache)
        # A buffer: created in `forward`, it would be copied to the device within a CUDA graph.
        colour = (torch.tensor(OVERLAY_COLOUR) - torch.tensor(mean)) / torch.tensor(std)
        self.register_buffer("colour", colour, persistent=False)

    @property
    def cells(self) -> int:
        """The number of rows and of columns of the pooling weights.

        One per patch; with `overlay` one per pixel.
        """
        return self.clip.image_size if self.focus.mode == "overlay" else self.clip.grid

    def forward(
        self, image: Tensor, focus_logits: Tensor, rows: Tensor, cols: Tensor
    ) -> ClassifierOutput:
        """Classify images with attention steered by their focus masks.

        Args:
            image: (B, 3, R, R) float, normalised.
            focus_logits: (B, h, w) from the segmenter.
            rows: (B, `cells`, h) and cols: (B, `cells`, w) from `pooling_weights`.
        """
        if self.focus.mode == "overlay":
            image, patch_focus, focused = self._paint(image, focus_logits, rows, cols)
            embedding = self.clip(image)
        else:
            key_bias, patch_focus, focused = focus_bias(
                focus_logits, rows, cols, self.strength, self.focus.floor, self.focus.visible
            )
            embedding = self._embed(image, key_bias, patch_focus, focused)
        if self.focus.mode == "none":
            focused = torch.zeros_like(focused)
        cache = None if self.cache is None else Cache(*self.cache)
        unit = F.normalize(embedding, dim=-1)
        logits = class_logits(unit, self.class_embeddings, self.logit_scale, cache)
        probabilities = logits.softmax(-1)
        return ClassifierOutput(embedding, probabilities, patch_focus, focused)

    def _paint(
        self, image: Tensor, focus_logits: Tensor, rows: Tensor, cols: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The painted image, its patch focus, and whether anything was painted."""
        pixel_focus = pool_focus(focus_logits, rows, cols)  # (B, R, R)
        patch_focus = patches_from_pixels(pixel_focus, self.clip.grid)
        focused = is_focused(patch_focus, self.focus) & (focus_logits.amax((-2, -1)) > 0)
        painted = paint(image, pixel_focus * focused[:, None, None], self.colour)
        return painted, patch_focus, focused

    def _embed(
        self, image: Tensor, key_bias: Tensor, patch_focus: Tensor, focused: Tensor
    ) -> Tensor:
        if self.focus.mode == "none":
            embedding: Tensor = self.clip(image)
        elif self.focus.mode == "soft":
            embedding = self.clip(image, key_bias)
        else:
            keep = kept_tokens(patch_focus, focused, self.focus)
            # Dropping tokens needs shapes that depend on data, which exported graphs cannot have.
            if torch.compiler.is_exporting():
                embedding = self.clip(image, hiding_bias(keep, self.clip.layers))
            else:
                embedding = self._embed_kept(image, keep, focused)
        return embedding

    def _embed_kept(self, image: Tensor, keep: Tensor, focused: Tensor) -> Tensor:
        """Focused images from their kept tokens, the others exactly as plain CLIP."""
        if focused.all():
            return self.clip.forward_kept(image, keep)
        plain: Tensor = self.clip(image[~focused])
        embedding = plain.new_empty(len(image), plain.shape[1])
        embedding[~focused] = plain
        if focused.any():
            embedding[focused] = self.clip.forward_kept(image[focused], keep[focused])
        return embedding
