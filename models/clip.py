"""CLIP's image encoder with a bias a key inside every attention."""

from dataclasses import dataclass
from typing import Any

from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from medfocus.errors import InputError
from medfocus.kernels import masked_attention


class OpenClipAttention(nn.Module):
    """Stands in for `nn.MultiheadAttention`, under its parameter names."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.in_proj_weight = attention.in_proj_weight
        self.in_proj_bias = attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(self, tokens: Tensor, key_bias: Tensor | None) -> Tensor:
        """(B, N, W) tokens, (B, N) bias or None -> (B, N, W)."""
        qkv = nn.functional.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        attended: Tensor = self.out_proj(masked_attention(qkv, key_bias, self.num_heads))
        return attended


class TimmAttention(nn.Module):
    """Stands in for timm's `Attention`, under its parameter names."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.qkv = attention.qkv
        self.proj = attention.proj

    def forward(self, tokens: Tensor, key_bias: Tensor | None) -> Tensor:
        """(B, N, W) tokens, (B, N) bias or None -> (B, N, W)."""
        attended: Tensor = self.proj(masked_attention(self.qkv(tokens), key_bias, self.num_heads))
        return attended


@dataclass(frozen=True)
class _Block:
    """One pre-norm transformer layer, by whatever names the library calls its parts."""

    norm1: nn.Module
    attention: nn.Module
    scale1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    scale2: nn.Module

    def run(self, tokens: Tensor, key_bias: Tensor | None) -> Tensor:
        """(B, N, W) -> (B, N, W)."""
        tokens = tokens + self.scale1(self.attention(self.norm1(tokens), key_bias))
        tokens = tokens + self.scale2(self.mlp(self.norm2(tokens)))
        return tokens


class FocusCLIP(nn.Module):
    """A CLIP image encoder whose attention can be steered key by key.

    Args:
        visual: open_clip's `VisionTransformer`, or its `TimmModel` around a ViT, as BiomedCLIP
            has. It becomes part of this module (`visual.*`, names as in its checkpoints), with
            each attention replaced by one on packed QKV that takes a bias.

    Raises:
        InputError: a tower with another structure, which would be run wrongly.
    """

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        if isinstance(visual, VisionTransformer):
            self.blocks = _replace_open_clip_attention(visual)
            self.width: int = visual.conv1.out_channels
            self.embedding_size: int = visual.output_dim
            patches = visual.grid_size
        elif isinstance(visual, TimmModel):
            self.blocks = _replace_timm_attention(visual)
            self.width = visual.trunk.embed_dim
            self.embedding_size = visual.head.proj.out_features
            patches = visual.trunk.patch_embed.grid_size
        else:
            raise _unsupported(f"{type(visual).__name__} is no vision transformer")
        if patches[0] != patches[1]:
            raise _unsupported(f"its patches form no square: {patches}")
        self.visual = visual
        self.grid: int = patches[0]

    @property
    def layers(self) -> int:
        """L, the number of attention layers."""
        return len(self.blocks)

    @property
    def image_size(self) -> int:
        """R, the side of the square image that the encoder takes."""
        return int(self.visual.image_size[0])

    def forward(
        self, image: Tensor, key_bias: Tensor | None = None, strength: Tensor | None = None
    ) -> Tensor:
        """Embed images, attention steered by `strength[l] · key_bias` in layer l.

        Args:
            image: (B, 3, R, R) float, normalised as this CLIP expects.
            key_bias: (B, 1 + g²) or (B, H, 1 + g²); None is plain CLIP.
            strength: (L,) λ of each layer; 1 everywhere when None.

        Returns:
            (B, E) embedding, not normalised: what open_clip's `encode_image` returns.
        """
        tokens = self._embed(image)  # (B, 1 + g², W)
        for layer, block in enumerate(self.blocks):
            bias = key_bias
            if bias is not None and strength is not None:
                bias = bias * strength[layer]
            tokens = block.run(tokens, bias)
        return self._pool(tokens)

    def _embed(self, image: Tensor) -> Tensor:
        if isinstance(self.visual, VisionTransformer):
            tokens: Tensor = self.visual._embeds(image)
            return tokens
        trunk = self.visual.trunk
        tokens = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(image)))
        return tokens

    def _pool(self, tokens: Tensor) -> Tensor:
        if isinstance(self.visual, VisionTransformer):
            pooled, _ = self.visual._pool(tokens)
            embedding: Tensor = pooled @ self.visual.proj
            return embedding
        trunk = self.visual.trunk
        embedding = self.visual.head(trunk.forward_head(trunk.norm(tokens)))
        return embedding


def _replace_open_clip_attention(visual: VisionTransformer) -> list[_Block]:
    if visual.attn_pool is not None or visual.pool_type != "tok":
        raise _unsupported("it does not read CLS alone")
    blocks = []
    for block in visual.transformer.resblocks:
        if not isinstance(block, ResidualAttentionBlock):
            raise _unsupported(f"its layers are {type(block).__name__}")
        block.attn = OpenClipAttention(block.attn)
        blocks.append(_Block(block.ln_1, block.attn, block.ls_1, block.ln_2, block.mlp, block.ls_2))
    return blocks


def _replace_timm_attention(visual: TimmModel) -> list[_Block]:
    trunk = visual.trunk
    if getattr(trunk, "num_prefix_tokens", None) != 1 or trunk.global_pool not in ("", "token"):
        raise _unsupported("it does not read CLS alone")
    blocks = []
    for block in trunk.blocks:
        attention = block.attn
        plain = (attention.q_norm, attention.k_norm, attention.norm)
        if attention.gate is not None or any(not isinstance(p, nn.Identity) for p in plain):
            raise _unsupported("its attention is normalised or gated")
        block.attn = TimmAttention(attention)
        blocks.append(_Block(block.norm1, block.attn, block.ls1, block.norm2, block.mlp, block.ls2))
    return blocks


def _unsupported(problem: str) -> InputError:
    return InputError("CLIP image encoder", problem, "use a ViT that classifies from its CLS token")
