"""SAM2's Hiera blocks on `window_attention`, which reads windows in the projection's layout."""

import torch.nn.functional as F
from sam2.modeling.backbones.hieradet import Hiera, MultiScaleBlock
from torch import Tensor, nn

from medfocus.kernels import window_attention


class HieraBlock(nn.Module):
    """Replaces `MultiScaleBlock`, with its parameter names.

    Upstream also projects the windows' padding; here q, k and v are computed only for the grid,
    and `window_attention` gets the projection of zeros, which is its bias.

    Args:
        block: upstream's, without stochastic depth, its pooling (if any) 2×2.
    """

    def __init__(self, block: MultiScaleBlock) -> None:
        super().__init__()
        self.window: int = block.window_size
        self.pool: bool = block.pool is not None
        self.norm1 = block.norm1
        self.attn = block.attn  # stores the projections and the number of heads; it never runs
        self.norm2 = block.norm2
        self.mlp = block.mlp
        self.proj: nn.Module | None = block.proj if block.dim != block.dim_out else None

    def forward(self, grid: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C'); a block with pooling halves H and W."""
        rows, columns = grid.shape[1:3]
        tokens = grid.flatten(1, 2)
        normed = self.norm1(tokens)
        shortcut = tokens
        if self.proj is not None:
            shortcut = self._pool(self.proj(normed).unflatten(1, (rows, columns))).flatten(1, 2)
            shortcut = shortcut.to(self.norm1.weight.dtype)  # under autocast, sums are float32
        attn = self.attn
        qkv = attn.qkv(normed).unflatten(1, (rows, columns))
        attended = window_attention(qkv, attn.qkv.bias, attn.num_heads, self.window, self.pool)
        tokens = shortcut + attn.proj(attended.flatten(1, 2))
        tokens = tokens + self.mlp(self.norm2(tokens))
        grid = tokens.unflatten(1, attended.shape[1:3])
        return grid

    def _pool(self, grid: Tensor) -> Tensor:
        if not self.pool:
            return grid
        # (B, H, W, C) -> (B, C, H, W), halved, and back
        return F.max_pool2d(grid.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def replace_blocks(trunk: Hiera) -> Hiera:
    """Replace each block of a trunk by a `HieraBlock`; parameters and their names stay."""
    trunk.blocks = nn.ModuleList(HieraBlock(block) for block in trunk.blocks)
    return trunk
