"""CLIP's image encoder with a bias per key inside every attention."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from medfocus.errors import InputError
from medfocus.models.clip.attention import OpenClipAttention, PackedAttention, TimmAttention


@dataclass(frozen=True)
class _Block:
    """One pre-norm transformer layer, independent of the library's attribute names."""

    norm1: nn.Module
    attention: PackedAttention
    scale1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    scale2: nn.Module

    def run(self, tokens: Tensor, key_bias: Tensor | None) -> Tensor:
        """(B, N, W) -> (B, N, W)."""
        return self._add(tokens, self.attention(self.norm1(tokens), key_bias))

    def run_cls(self, tokens: Tensor, key_bias: Tensor | None) -> Tensor:
        """(B, N, W) -> (B, W), the CLS row of `run`."""
        return self._add(tokens[:, 0], self.attention.cls_row(self.norm1(tokens), key_bias))

    def run_ragged(self, tokens: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        """(T, W) -> (T, W)."""
        attended = self.attention.ragged(self.norm1(tokens), cu_seqlens, max_seqlen)
        return self._add(tokens, attended)

    def _add(self, tokens: Tensor, attended: Tensor) -> Tensor:
        tokens = tokens + self.scale1(attended)
        tokens = tokens + self.scale2(self.mlp(self.norm2(tokens)))
        return tokens


class FocusCLIP(nn.Module):
    """A CLIP image encoder whose attention can be steered key by key.

    Args:
        visual: open_clip's `VisionTransformer`, or its `TimmModel` around a ViT, as BiomedCLIP
            has. It becomes part of this module (`visual.*`, names as in its checkpoints), with
            each attention replaced by one on packed QKV that takes a bias.
        prompts: n, the number of learned tokens per layer, inserted between CLS and the patches
            and dropped after the layer: deep visual prompts (Jia et al. 2022, arXiv 2203.12119).
            They start at 0, and their bias is 0.

    Raises:
        InputError: the tower has another structure (`model.unsupported`).
    """

    def __init__(self, visual: nn.Module, prompts: int = 0) -> None:
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
            raise _unsupported(f"{type(visual).__name__} is not a vision transformer")
        if patches[0] != patches[1]:
            raise _unsupported(f"its patches do not form a square: {patches}")
        self.visual = visual
        self.grid: int = patches[0]
        self.prompts: nn.Parameter | None = None
        if prompts:
            self.prompts = nn.Parameter(torch.zeros(self.layers, prompts, self.width))

    @property
    def layers(self) -> int:
        """L, the number of attention layers."""
        return len(self.blocks)

    @property
    def image_size(self) -> int:
        """R, the side of the square input image in pixels."""
        return int(self.visual.image_size[0])

    def forward(self, image: Tensor, key_bias: Tensor | None = None) -> Tensor:
        """Embed images, each layer's attention steered by its own bias.

        CLIP reads only CLS, so the last layer computes only what that row needs. That is exact.

        Args:
            image: (B, 3, R, R) float, normalised as this CLIP expects.
            key_bias: (L, B, 1 + g²) float32, added to the attention logits of layer l, with the
                strength already multiplied in; None for plain CLIP.

        Returns:
            (B, E) embedding, not normalised, as from open_clip's `encode_image`.

        Raises:
            InputError: the bias has another shape or dtype.
        """
        tokens = self.embed_patches(image)  # (B, 1 + g², W)
        biases: Sequence[Tensor | None] = [None] * self.layers
        if key_bias is not None:
            if key_bias.ndim != 3 or key_bias.shape[0] != self.layers:
                raise InputError(
                    "key_bias",
                    f"shape {tuple(key_bias.shape)}",
                    f"pass one bias per layer: ({self.layers}, B, 1 + g²)",
                )
            biases = self._with_prompts(key_bias).unbind(0)
        for layer, block in enumerate(self.blocks[:-1]):
            tokens = block.run(self._prompted(tokens, layer), biases[layer])
        last = self.layers - 1
        return self._project(self.blocks[-1].run_cls(self._prompted(tokens, last), biases[-1]))

    def forward_kept(self, image: Tensor, keep: Tensor) -> Tensor:
        """Embed images from some of their patches, at the cost of only those.

        Equals `forward` with a bias that hides the other patches in every layer: kept tokens
        never read hidden ones, and positions were added before, so the hidden ones are dropped
        before the first layer. Shapes depend on how many are kept, so this waits for the device
        once, and cannot be exported.

        Args:
            image: (B, 3, R, R) float, normalised as this CLIP expects.
            keep: (B, 1 + g²) bool, True for kept patches; CLS, the first, is always kept.

        Returns:
            (B, E) embedding, as from `forward`.

        Raises:
            InputError: `keep` has another shape or dtype.
        """
        expected = (image.shape[0], 1 + self.grid**2)
        if keep.dtype != torch.bool or keep.shape != expected:
            raise InputError(
                "keep", f"{keep.dtype} of shape {tuple(keep.shape)}", f"pass bool {expected}"
            )
        prompts = 0 if self.prompts is None else self.prompts.shape[1]
        keep = F.pad(keep[:, 1:], (1 + prompts, 0), value=True)
        lengths = keep.sum(1)
        on_host = lengths.tolist()
        cu_seqlens = F.pad(lengths.cumsum(0), (1, 0)).int()
        rows = torch.nonzero_static(keep.flatten(), size=sum(on_host))[:, 0]
        tokens = self._prompted(self.embed_patches(image), 0).flatten(0, 1)[rows]  # (T, W)
        after_cls = torch.arange(1, 1 + prompts, device=image.device)
        prompt_rows = (cu_seqlens[:-1, None] + after_cls).flatten()  # (B·n,)
        for layer, block in enumerate(self.blocks):
            if self.prompts is not None and layer > 0:
                prompt = self.prompts[layer].repeat(image.shape[0], 1)  # (n, W) -> (B·n, W)
                tokens = tokens.index_copy(0, prompt_rows, prompt.to(tokens.dtype))
            tokens = block.run_ragged(tokens, cu_seqlens, max(on_host))
        return self._project(tokens[cu_seqlens[:-1]])

    def _prompted(self, tokens: Tensor, layer: int) -> Tensor:
        """The tokens (B, N, W) with this layer's prompts instead of the previous layer's."""
        if self.prompts is None:
            return tokens
        count = self.prompts.shape[1]
        prompt = self.prompts[layer].to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        after = 1 if layer == 0 else 1 + count
        return torch.cat([tokens[:, :1], prompt, tokens[:, after:]], 1)

    def _with_prompts(self, key_bias: Tensor) -> Tensor:
        """Insert the prompts' bias of 0: (L, B, 1 + g²) -> (L, B, 1 + n + g²)."""
        if self.prompts is None:
            return key_bias
        zeros = key_bias.new_zeros(*key_bias.shape[:2], self.prompts.shape[1])
        return torch.cat([key_bias[..., :1], zeros, key_bias[..., 1:]], -1)

    def embed_patches(self, image: Tensor) -> Tensor:
        """(B, 3, R, R) -> (B, 1 + g², W): CLS and the patches, the input of the first layer.

        In the dtype of LayerNorm, and so is every sum of the layers: under autocast float32.
        """
        if isinstance(self.visual, VisionTransformer):
            tokens: Tensor = self.visual._embeds(image)
        else:
            trunk = self.visual.trunk
            tokens = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(image)))
        return tokens.to(next(self.blocks[0].norm1.parameters()).dtype)

    def _project(self, cls: Tensor) -> Tensor:
        """(B, W) -> (B, E)."""
        tokens = cls[:, None]  # upstream's pooling takes the first row of (B, N, W)
        if isinstance(self.visual, VisionTransformer):
            pooled, _ = self.visual._pool(tokens)
            embedding: Tensor = pooled @ self.visual.proj
            return embedding
        trunk = self.visual.trunk
        embedding = self.visual.head(trunk.forward_head(trunk.norm(tokens)))
        return embedding


def _replace_open_clip_attention(visual: VisionTransformer) -> list[_Block]:
    if visual.attn_pool is not None or visual.pool_type != "tok":
        raise _unsupported("it does not read only CLS")
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
        raise _unsupported("it does not read only CLS")
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
    hint = "use a ViT that classifies from its CLS token"
    return InputError("CLIP image encoder", problem, hint, code="model.unsupported")
