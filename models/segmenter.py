"""SAM2's image path as one batched module: images and prompts in, candidate masks out."""

import torch
from torch import Tensor, nn

from medfocus.errors import InputError
from medfocus.models.architectures import (
    IMAGE_EMBEDDING_STRIDE,
    build_image_encoder,
    build_mask_decoder,
    build_prompt_encoder,
    sam2_architecture,
)
from medfocus.settings import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT

LOGIT_LIMIT = 32.0  # SAM2ImagePredictor clamps its low-resolution logits here


class Segmenter(nn.Module):
    """SAM2 without its memory: the image encoder once an image, the decoder once a prompt.

    Parameter names are those of upstream's checkpoints. Upstream's `SAM2ImagePredictor` decodes
    a batch image by image; here images and prompts are one batch from end to end.

    Args:
        architecture: a name from `SAM2_ARCHITECTURES`.
        image_size: S, a multiple of 32; the architecture's own when None.

    Raises:
        InputError: an unknown name, or a size the encoder's strides do not divide.
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
            mask logits (B, P, K, h, w) with h = w = S/4 and K = 3, within ±32, and
            the predicted IoU (B, P, K).
        """
        if boxes is not None:
            points, labels = with_boxes(points, labels, boxes)
        prompts = points.shape[1]
        embedding, high_resolution = self.embed_image(image)
        encoder = self.sam_prompt_encoder
        sparse, _ = encoder(
            points=(points.flatten(0, 1), labels.flatten(0, 1)), boxes=None, masks=None
        )
        masks, iou = self.sam_mask_decoder(
            embedding,
            high_resolution,
            encoder.get_dense_pe(),
            sparse.unflatten(0, (-1, prompts)),
            encoder.no_mask_embed.weight,
        )
        return masks.clamp(-LOGIT_LIMIT, LOGIT_LIMIT), iou

    def embed_image(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The image embedding (B, C, S/16, S/16) and the finer levels, at S/4 and S/8."""
        finest, fine, coarse = self.image_encoder(image)["backbone_fpn"]
        # (1, 1, C) -> (1, C, 1, 1): upstream adds it to the flattened map
        coarse = coarse + self.no_mem_embed.transpose(1, 2).unsqueeze(-1)
        decoder = self.sam_mask_decoder
        return coarse, [decoder.conv_s0(finest), decoder.conv_s1(fine)]


def with_boxes(points: Tensor, labels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (B, P, 4) as two more points a prompt, in front, as SAM2ImagePredictor does."""
    corners = boxes.reshape(*boxes.shape[:2], 2, 2)  # (B, P, 4) -> (B, P, 2, 2)
    corner_labels = labels.new_tensor([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]).expand(*boxes.shape[:2], 2)
    return torch.cat([corners, points], dim=2), torch.cat([corner_labels, labels], dim=2)
