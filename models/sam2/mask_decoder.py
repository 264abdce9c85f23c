"""SAM2's mask decoder for several prompts per image; what the prompts share is computed once."""

from typing import Any

import torch
import torch.nn.functional as F
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn


class PromptedMaskDecoder(MaskDecoder):  # type: ignore[misc]
    """`MaskDecoder` with three masks per prompt, with upstream's parameter names.

    Upstream copies the image for every prompt. Here an image's prompts share its keys and values
    in the first layer, and its finer features, which are added to each prompt's by broadcasting. A
    transposed convolution of 2×2 with stride 2 is one matrix product per cell, so the features stay
    tokens, with a cell's pixels next to each other, until the masks are computed.

    Letters: B images, P prompts, N = y·x cells, C channels, K = 3 masks.
    """

    def __init__(self, **upstreams: Any) -> None:
        super().__init__(**upstreams)
        first = self.transformer.layers[0]
        first.cross_attn_image_to_token = SharedQueryAttention(first.cross_attn_image_to_token)

    def forward(
        self,
        embedding: Tensor,
        finer: Tensor,
        finest: Tensor,
        position: Tensor,
        prompts: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Every candidate mask of every prompt.

        Tensors are floating point; under autocast the finer features are in half precision.

        Args:
            embedding: (B, y, x, C) of the images, with the dense prompt added.
            finer: (B, 2y, 2x, C/4).
            finest: (B, 4y, 4x, C/8).
            position: (1, C, y, x) of the cells.
            prompts: (B, P, n, C) of points and boxes.

        Returns:
            Mask logits (B, P, K, 4y, 4x) and the predicted IoU (B, P, K).
        """
        grid, count = embedding.shape[1:3], prompts.shape[1]
        learned = (self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight)
        output_tokens = torch.cat(learned).expand(*prompts.shape[:2], -1, -1)
        tokens = torch.cat([output_tokens, prompts], 2).flatten(0, 1)  # (B·P, t, C)
        cells = embedding.flatten(1, 2)  # (B, N, C)
        tokens, cells = self._attend(tokens, cells, position.flatten(2).mT, count)
        # Order: object score, IoU, the single mask of SAM2 without candidates, the candidates.
        candidates = tokens[:, 3 : 2 + self.num_mask_tokens].unbind(1)
        networks = self.output_hypernetworks_mlps[1:]
        weights = [network(token) for network, token in zip(networks, candidates, strict=True)]
        pixels = self._upscale(cells.unflatten(0, (-1, count)), finer, finest, grid)
        logits = torch.stack(weights, 1).unflatten(0, (-1, count)) @ pixels.mT  # (B, P, K, N·16)
        masks = _to_grid(logits.flatten(0, 2), grid).unflatten(0, (-1, count, len(weights)))
        return masks, self.iou_prediction_head(tokens[:, 1])[:, 1:].unflatten(0, (-1, count))

    def _attend(
        self, prompted: Tensor, cells: Tensor, position: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        """Upstream's `TwoWayTransformer`: (B·P, t, C), (B, N, C) -> (B·P, t, C), (B·P, N, C)."""
        transformer = self.transformer
        first, *others = transformer.layers
        tokens, cells = _first_layer(first, prompted, cells, position, count)
        for layer in others:
            tokens, cells = layer(tokens, cells, query_pe=prompted, key_pe=position)
        seen = transformer.final_attn_token_to_image(tokens + prompted, cells + position, cells)
        return transformer.norm_final_attn(tokens + seen), cells

    def products(self) -> tuple[Tensor, Tensor]:
        """Both transposed convolutions' weights (C, C', 2, 2) as matrices (C, 4·C')."""
        wide, fine = self.output_upscaling[0].weight, self.output_upscaling[3].weight
        return wide.permute(0, 2, 3, 1).flatten(1), fine.permute(0, 2, 3, 1).flatten(1)

    def _upscale(self, cells: Tensor, finer: Tensor, finest: Tensor, grid: torch.Size) -> Tensor:
        """Upstream's `output_upscaling`: (B, P, N, C) -> (B, P, N·16, C/8).

        A cell's 2×2 pixels are next to each other, and so are each pixel's 2×2 finer ones.
        """
        wide, norm, activation, fine, last_activation = self.output_upscaling
        to_finer, to_finest = self.products()
        # (B, 2y, 2x, C/4) -> (B, N·4, C/4), and (B, 4y, 4x, C/8) -> (B, N·16, C/8)
        finer = _by_cell(finer, grid).unflatten(-1, (4, -1)).flatten(1, 2)
        half = torch.Size((2 * grid[0], 2 * grid[1]))
        finest = _by_cell(finest, half).unflatten(1, half)
        finest = _by_cell(finest, grid).unflatten(-1, (16, -1)).flatten(1, 2)
        pixels = (cells @ to_finer).unflatten(-1, (4, -1)).flatten(2, 3)
        pixels = pixels + (finer + wide.bias.to(finer.dtype)).unsqueeze(1)
        pixels = F.layer_norm(pixels, norm.weight.shape, norm.weight, norm.bias, norm.eps)
        pixels = activation(pixels) @ to_finest
        pixels = pixels.unflatten(-1, (4, -1)).flatten(2, 3)
        upscaled: Tensor = last_activation(
            pixels + (finest + fine.bias.to(finest.dtype)).unsqueeze(1)
        )
        return upscaled


def _first_layer(
    layer: TwoWayAttentionBlock, prompted: Tensor, cells: Tensor, position: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Upstream's first layer, on cells (B, N, C) that an image's prompts still share."""
    tokens = layer.norm1(layer.self_attn(prompted, prompted, prompted))
    placed = cells + position
    # All tokens of an image attend to its cells at once: (B·P, t, C) -> (B, P·t, C) and back.
    queries = (tokens + prompted).unflatten(0, (-1, count)).flatten(1, 2)
    seen = layer.cross_attn_token_to_image(queries, placed, cells)
    tokens = layer.norm2(tokens + seen.unflatten(1, (count, -1)).flatten(0, 1))
    tokens = layer.norm3(tokens + layer.mlp(tokens))
    seen = layer.cross_attn_image_to_token(placed, tokens + prompted, tokens, count)
    seen = seen.unflatten(0, (-1, count))
    return tokens, layer.norm4((cells.unsqueeze(1) + seen).flatten(0, 1))


class SharedQueryAttention(nn.Module):
    """Replaces `Attention`, with its parameter names; several prompts share the queries.

    It is a module, so that exporters can assign its products to their block.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads: int = attention.num_heads
        self.q_proj, self.k_proj = attention.q_proj, attention.k_proj
        self.v_proj, self.out_proj = attention.v_proj, attention.out_proj

    def forward(self, q: Tensor, k: Tensor, v: Tensor, count: int) -> Tensor:
        """(B, N, C), (B·P, t, C) twice, P -> (B·P, N, C)."""
        queries = self.q_proj(q).unsqueeze(1).expand(-1, count, -1, -1).flatten(0, 1)
        # (B·P, n, C) -> (B·P, heads, n, C/heads)
        heads = (
            tensor.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for tensor in (queries, self.k_proj(k), self.v_proj(v))
        )
        attended = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        found: Tensor = self.out_proj(attended)
        return found


def _by_cell(pixels: Tensor, grid: torch.Size) -> Tensor:
    """(B, 2y, 2x, C) -> (B, y·x, 4·C): a cell's 2×2 pixels next to each other."""
    rows, columns = grid
    split = pixels.unflatten(2, (columns, 2)).unflatten(1, (rows, 2))  # (B, y, 2, x, 2, C)
    cells: Tensor = split.transpose(2, 3).flatten(3).flatten(1, 2)
    return cells


def _to_grid(values: Tensor, grid: torch.Size) -> Tensor:
    """(M, y·x·16) by cell, as `_upscale` orders them -> (M, 4y, 4x)."""
    rows, columns = grid
    # (M, y, x, 2, 2, 4) -> (M, 2y, 2x, 2, 2) -> (M, 4y, 4x)
    halves = values.unflatten(1, (rows, columns, 2, 2, 4)).transpose(2, 3)
    quarters = halves.reshape(-1, 2 * rows, 2 * columns, 2, 2).transpose(2, 3)
    grids: Tensor = quarters.reshape(-1, 4 * rows, 4 * columns)
    return grids
