"""SAM2's image path as one batched module: candidate masks from images and prompts."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfocus.errors import InputError
from medfocus.models.sam2.architecture import (
    IMAGE_EMBEDDING_STRIDE,
    build_image_encoder,
    build_mask_decoder,
    build_prompt_encoder,
    sam2_architecture,
)
from medfocus.settings import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT

LOGIT_LIMIT = 32.0  # SAM2ImagePredictor clamps its low-resolution logits to ±32


class Segmenter(nn.Module):
    """SAM2 without memory: the image encoder runs once per image, the decoder once per prompt.

    Parameter names are those of upstream's checkpoints. Upstream's `SAM2ImagePredictor` decodes
    a batch image by image; here images and prompts are one batch from start to end.

    Args:
        architecture: a name from `SAM2_ARCHITECTURES`.
        image_size: S, a multiple of 32; None for the architecture's native size.

    Raises:
        InputError: the name is unknown (`model.unknown`), or the size is not a multiple of 32.
    """

    def __init__(self, architecture: str, image_size: int | None = None) -> None:
        super().__init__()
        numbers = sam2_architecture(architecture)
        self.image_size = numbers.image_size if image_size is None else image_size
        if self.image_size <= 0 or self.image_size % (2 * IMAGE_EMBEDDING_STRIDE):
            raise InputError(
                "image_size",
                f"{self.image_size} is no positive multiple of 32",
                "use 256, 512 or 1024",
            )
        self.image_encoder = build_image_encoder(numbers)
        self.sam_prompt_encoder = build_prompt_encoder(numbers, self.image_size)
        self.sam_mask_decoder = build_mask_decoder(numbers)
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, numbers.d_model))

    def forward(
        self, image: Tensor, points: Tensor, labels: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Every candidate mask of every prompt.

        Args:
            image: (B, 3, S, S) float, normalised as SAM2 expects.
            points: (B, P, n, 2) x and y in pixels of the S×S frame.
            labels: (B, P, n) int: 1 foreground, 0 background, -1 no point, 2 and 3 box corners.
            boxes: (B, P, 4) left, top, right, bottom in pixels of the S×S frame, if any.

        Returns:
            Mask logits (B, P, K, h, w) with h = w = S/4 and K = 3, within ±32, and
            the predicted IoU (B, P, K).
        """
        if boxes is not None:
            points, labels = with_boxes(points, labels, boxes)
        prompts = points.shape[1]
        cells, finer, finest = self.embed_image(image)
        encoder = self.sam_prompt_encoder
        sparse, _ = encoder(
            points=(points.flatten(0, 1), labels.flatten(0, 1)), boxes=None, masks=None
        )
        masks, iou = self.sam_mask_decoder(
            cells + encoder.no_mask_embed.weight,
            finer,
            finest,
            encoder.get_dense_pe(),
            sparse.unflatten(0, (-1, prompts)),
        )
        return masks.clamp(-LOGIT_LIMIT, LOGIT_LIMIT), iou

    def embed_image(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The image embedding and the decoder's finer features, channels last as in Hiera.

        Upstream's feature pyramid consists of 1×1 convolutions, which are one product per pixel. On
        the two finer levels only the decoder's 1×1 convolutions follow, so each pair is merged into
        one product.

        Args:
            image: (B, 3, S, S).

        Returns:
            (B, S/16, S/16, C), (B, S/8, S/8, C/4) and (B, S/4, S/4, C/8).
        """
        levels = [level.movedim(1, -1) for level in self.image_encoder.trunk(image)]
        finest, finer, coarse, coarsest = (
            F.linear(level, *product) for level, product in zip(levels, self.pyramid(), strict=True)
        )
        # The coarsest level is added to the 2×2 cells below each of its cells by broadcasting. It
        # is float32 under autocast too, as `no_mem_embed` is, and so is the sum.
        above = (coarsest + self.no_mem_embed)[:, :, None, :, None]
        embedding = coarse.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)) + above
        return embedding.flatten(3, 4).flatten(1, 2), finer, finest

    def pyramid(self) -> list[tuple[Tensor, Tensor]]:
        """Weight (C', C) and bias (C',) of the product on each of Hiera's levels, finest first."""
        coarsest, coarse, finer, finest = (level.conv for level in self.image_encoder.neck.convs)
        decoder = self.sam_mask_decoder
        return [
            _composed(finest, decoder.conv_s0),
            _composed(finer, decoder.conv_s1),
            (coarse.weight.flatten(1), coarse.bias),
            (coarsest.weight.flatten(1), coarsest.bias),
        ]


def _composed(first: nn.Conv2d, second: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Two 1×1 convolutions as one product."""
    assert first.bias is not None
    assert second.bias is not None
    weight = second.weight.flatten(1)
    with torch.autocast(weight.device.type, enabled=False):  # so that the weight is rounded once
        return weight @ first.weight.flatten(1), weight @ first.bias + second.bias


def with_boxes(points: Tensor, labels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Prepend boxes (B, P, 4) as two points per prompt, as SAM2ImagePredictor does."""
    corners = boxes.reshape(*boxes.shape[:2], 2, 2)  # (B, P, 4) -> (B, P, 2, 2)
    corner_labels = labels.new_tensor([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]).expand(*boxes.shape[:2], 2)
    return torch.cat([corners, points], dim=2), torch.cat([corner_labels, labels], dim=2)
