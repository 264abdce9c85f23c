"""Hiera's windows, the focus bias and `hard` focus: our kernels and other implementations."""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medfocus.benchmarks.baselines.attention import (
    CHECKED_IMAGES,
    OURS,
    Comparison,
    KernelImplementation,
    Run,
    ran,
)
from medfocus.benchmarks.baselines.ragged import KEPT
from medfocus.kernels.focus_bias import focus_bias, reference
from medfocus.kernels.tuning.roofline import PRODUCTS_OF_FLOAT32
from medfocus.kernels.window_attention import window_attention
from medfocus.models.focus import HIDDEN

SAM2 = "SAM2's own"
DENSE = f"{OURS}, all tokens"


def window_inputs(
    batch: int, side: int, channels: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor]:
    """qkv (B, side, side, 3·C) and the padding (3·C,): always the same numbers."""
    torch.manual_seed(side)
    qkv = torch.randn(batch, side, side, 3 * channels, device=device).to(dtype)
    return qkv, torch.randn(3 * channels, device=device).to(dtype)


def window(
    where: str,
    batch: int,
    side: int,
    channels: int,
    heads: int,
    window: int,
    pool: bool,
    dtype: torch.dtype,
    device: str,
) -> Comparison:
    """window_attention; answers are (B, H, W, C). Projections are not timed.

    `where` names Hiera's block: grids of side² positions in windows of window², C channels in
    heads of C / heads each, queries pooled or not.
    """
    qkv, padding = window_inputs(batch, side, channels, dtype, device)
    queries = window**2 // 4 if pool else window**2
    windows = batch * (-(-side // window)) ** 2
    answers = batch * side**2 * channels // (4 if pool else 1)
    shape: dict[str, int | str] = {"of": where, "B": batch, "H=W": side, "C": channels}
    shape |= {"D": channels // heads, "window": window}
    # A block that pools also doubles the channels: its windows are cut from half as many.
    before = channels // 2 if pool else channels
    return Comparison(
        kernel="window_attention",
        shape=shape,
        dtype=dtype,
        flop=4.0 * windows * queries * window**2 * channels,
        bytes=float((qkv.numel() + answers) * dtype.itemsize),
        exact=lambda: sam2_windows(
            qkv[:CHECKED_IMAGES].double(), padding.double(), before, heads, window, pool
        )(),
        implementations=[
            KernelImplementation(
                OURS,
                "(B, H, W, 3·C)",
                lambda: lambda: window_attention(qkv, padding, heads, window, pool),
                path=ran("window_attention"),
            ),
            KernelImplementation(
                SAM2,
                "partition of the block's input, SDPA, un-partition",
                lambda: sam2_windows(qkv, padding, before, heads, window, pool),
                path=lambda: "SDPA by PyTorch's choice",
            ),
        ],
    )


def sam2_windows(
    qkv: Tensor, padding: Tensor, before: int, heads: int, window: int, pool: bool
) -> Run:
    """SAM2's own block without its projections.

    It partitions the projection's input, of `before` channels; the projection's output, q, k and v
    by window, is prepared here.
    """
    from sam2.modeling.backbones.hieradet import do_pool
    from sam2.modeling.backbones.utils import window_partition, window_unpartition

    batch, rows, columns, packed = qkv.shape
    more_rows, more_columns = -rows % window, -columns % window
    grid = padding.expand(batch, rows + more_rows, columns + more_columns, packed).clone()
    grid[:, :rows, :columns] = qkv
    projected, whole = window_partition(grid, window)  # (B·n, window, window, 3·C)
    entering = torch.zeros(batch, rows, columns, before, dtype=qkv.dtype, device=qkv.device)
    halving = torch.nn.MaxPool2d(2, 2)

    def run() -> Tensor:
        window_partition(entering, window)
        # (B·n, window², heads, D) each
        q, k, v = projected.reshape(len(projected), window**2, 3, heads, -1).unbind(2)
        side, padded, size = window, whole, (rows, columns)
        if pool:
            q = do_pool(q.reshape(len(q), window, window, -1), halving)
            q = q.reshape(len(q), window**2 // 4, heads, -1)
            side, size = window // 2, (rows // 2, columns // 2)
            padded = tuple(length + -length % side for length in size)
        attended = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        )
        attended = attended.transpose(1, 2).reshape(len(q), side, side, -1)
        output: Tensor = window_unpartition(attended, side, padded, size)
        return output

    return run


def focus(batch: int, grid: int, side: int, layers: int, device: str) -> Comparison:
    """focus_bias; answers are the key bias with images first, (B, L, 1 + g²)."""
    generator = torch.Generator().manual_seed(grid)
    logits = (4 * torch.randn(batch, side, side, generator=generator)).to(device)
    weights = torch.rand(2, batch, grid, side, generator=generator).to(device)
    rows, cols = (weights / weights.sum(-1, keepdim=True)).unbind(0)
    strength = torch.linspace(0.1, 1, layers, device=device)
    rest = 0.02, 0.02

    def exact() -> Tensor:
        mask, up, across = (t[:CHECKED_IMAGES].double() for t in (logits, rows, cols))
        return reference(mask, up, across, strength.double(), *rest).key_bias.transpose(0, 1)

    def compiled() -> Run:
        function = torch.compile(reference, dynamic=False)
        return lambda: function(*arguments, *rest).key_bias

    def images_first(output: Tensor) -> Tensor:
        return output.transpose(0, 1)

    arguments = logits, rows, cols, strength
    outputs = batch * (layers * (1 + grid**2) + grid**2)
    return Comparison(
        kernel="focus_bias",
        shape={"B": batch, "h=w": side, "g": grid, "L": layers},
        dtype=torch.float32,
        flop=2.0 * batch * (side * side * grid + side * grid * grid),
        bytes=4.0 * (sum(t.numel() for t in arguments) + outputs),
        slowdown=PRODUCTS_OF_FLOAT32,
        exact=exact,
        implementations=[
            KernelImplementation(
                OURS,
                "one launch",
                lambda: lambda: focus_bias(*arguments, *rest).key_bias,
                images_first,
                path=ran("focus_bias"),
            ),
            KernelImplementation(
                "PyTorch",
                "eager",
                lambda: lambda: reference(*arguments, *rest).key_bias,
                images_first,
            ),
            KernelImplementation(
                "PyTorch compiled", "torch.compile", compiled, images_first, lambda: "Inductor"
            ),
        ],
    )


@torch.no_grad()
def hard(architecture: str, batch: int, dtype: torch.dtype, device: str) -> Comparison:
    """A whole encoder with 30% of its patches kept; answers are (B, E)."""
    # Imported here and in `sam2_windows`: without upstream's packages, the rest still runs.
    from medfocus.models.clip.architecture import build_vision_tower
    from medfocus.models.clip.encoder import FocusCLIP

    torch.manual_seed(0)
    clip = FocusCLIP(build_vision_tower(architecture)).eval().to(device, dtype)
    image = torch.randn(batch, 3, clip.image_size, clip.image_size, device=device).to(dtype)
    tokens = 1 + clip.grid**2
    keep = torch.rand(batch, tokens, device=device).argsort(1) < round(KEPT * tokens)
    keep[:, 0] = True
    bias = torch.where(keep, 0.0, HIDDEN).expand(clip.layers, -1, -1).contiguous()
    lengths = keep.sum(1).tolist()

    def exact() -> Tensor:
        wide = copy.deepcopy(clip).double()
        found: Tensor = wide(image[:CHECKED_IMAGES].double(), bias[:, :CHECKED_IMAGES].double())
        return found

    return Comparison(
        kernel="hard focus",
        shape={"of": architecture, "B": batch, "kept": f"{sum(lengths) / keep.numel():.0%}"},
        dtype=dtype,
        flop=encoder_flop(lengths, clip.width, clip.layers),
        bytes=float(sum(p.numel() * p.itemsize for p in clip.parameters())),
        exact=exact,
        implementations=[
            KernelImplementation(
                OURS,
                "kept tokens only",
                lambda: lambda: clip.forward_kept(image, keep),
                path=ran("masked_attention_varlen"),
                graph=False,  # synchronises for the number of kept tokens
            ),
            KernelImplementation(
                DENSE,
                "all tokens, a bias of -1e4 for those not kept",
                lambda: lambda: clip(image, bias),
                path=ran("masked_attention"),
                graph=False,
                flop=encoder_flop([tokens] * batch, clip.width, clip.layers),
            ),
        ],
    )


def encoder_flop(lengths: Sequence[int], width: int, layers: int) -> float:
    """Of a ViT's layers: 12·W² products per token, 2·N·W per token in attention."""
    return float(layers * sum(24 * n * width**2 + 4 * n**2 * width for n in lengths))
