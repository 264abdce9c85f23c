"""Windowed attention on packed QKV, compared with SAM2's between its partition and un-partition.

Without a GPU the kernel runs in Triton's interpreter, on small grids and without bfloat16.
"""

import itertools
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sam2.modeling.backbones.hieradet import MultiScaleAttention
from sam2.modeling.backbones.utils import window_partition, window_unpartition
from torch import Tensor, nn

from medfocus.errors import InputError
from medfocus.kernels import dispatch, masked_attention
from medfocus.kernels.tile import Tile
from medfocus.kernels.window_attention import launch, reference, window_attention
from tests.errors import refuses
from tests.kernels.accuracy import assert_as_accurate

NAME = "window_attention"
TILE = Tile(64, 64, 4, 2)
TILES = [TILE, Tile(128, 64, 8, 2), Tile(32, 16, 4, 1)]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="SAM2's grids need a GPU")
DTYPES = [torch.bfloat16] * torch.cuda.is_available() + [torch.float16, torch.float32]


class MarkedProjection(nn.Module):
    """Returns its input, and the bias where the marker shows that upstream padded."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, marked: Tensor) -> Tensor:
        return torch.where(marked[..., -1:] > 0, marked[..., :-1], self.bias)


def upstream(qkv: Tensor, padding: Tensor, heads: int, window: int, pool: bool) -> Tensor:
    """The steps of MultiScaleBlock.forward around its attention, with QKV already projected."""
    stride = 2 if pool else 1
    attention = MultiScaleAttention(1, 1, heads, nn.MaxPool2d(2, 2) if pool else None)
    attention.qkv = MarkedProjection(padding.to(qkv.dtype))
    attention.proj = nn.Identity()
    x = F.pad(qkv, (0, 1), value=1.0)
    if window == 0:
        return attention(x)
    x, _ = window_partition(x, window)
    rows, columns, side = qkv.shape[1] // stride, qkv.shape[2] // stride, window // stride
    padded = rows + -rows % side, columns + -columns % side
    return window_unpartition(attention(x), side, padded, (rows, columns))


def draw(
    batch: int, rows: int, columns: int, heads: int, width: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor]:
    """QKV of distinct images, and a padding that is not 0."""
    generator = torch.Generator().manual_seed(rows * 100 + columns)
    packed = 3 * heads * width
    qkv = torch.randn(batch, rows, columns, packed, generator=generator)
    padding = torch.randn(packed, generator=generator)
    return qkv.to(device, dtype), padding.to(device, dtype)


def check(
    grid: tuple[int, int], window: int, pool: bool, heads: int, width: int, dtype: torch.dtype,
    device: str,
) -> None:  # fmt: skip
    qkv, padding = draw(2, *grid, heads, width, dtype, device)
    with dispatch.using("require"):
        ours = window_attention(qkv, padding, heads, window, pool)
    assert dispatch.last_path(NAME if window or pool else "masked_attention") == "triton"
    exact = upstream(qkv.double(), padding.double(), heads, window, pool)
    assert ours.shape == exact.shape
    assert_as_accurate(ours, upstream(qkv, padding, heads, window, pool), exact)


CASES = [
    # grid, window, pooled: one window per program, several (15 windows do not divide evenly), cut
    # on either axis and on both, the whole grid
    ((8, 8), 4, False),
    ((12, 20), 4, False),
    ((12, 20), 4, True),
    ((16, 8), 8, False),
    ((16, 8), 8, True),
    ((7, 14), 7, False),
    ((14, 14), 14, True),
    ((16, 16), 16, False),
    ((16, 16), 16, True),
    ((4, 10), 4, False),
    ((10, 4), 4, True),
    ((9, 11), 7, False),
    ((16, 18), 14, False),
    ((16, 18), 14, True),
    ((4, 6), 8, True),
    ((5, 6), 0, False),
    ((6, 10), 0, True),
    ((5, 7), 0, True),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("grid", "window", "pool"), CASES)
def test_against_upstream(
    grid: tuple[int, int], window: int, pool: bool, dtype: torch.dtype, device: str
) -> None:
    check(grid, window, pool, 2, 56, dtype, device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "width"), [(1, 96), (3, 72), (8, 32), (1, 128), (2, 16)])
@pytest.mark.parametrize(("grid", "window", "pool"), [((8, 8), 4, False), ((10, 8), 8, True)])
def test_heads_and_widths(
    grid: tuple[int, int], window: int, pool: bool, heads: int, width: int, dtype: torch.dtype,
    device: str,
) -> None:  # fmt: skip
    check(grid, window, pool, heads, width, dtype, device)


# Side of the grid, window, pooled, heads of the narrower trunks: the stages at S = 1024.
STAGES = [
    (256, 8, False, 1),
    (256, 8, True, 2),
    (128, 4, False, 2),
    (128, 4, True, 4),
    (64, 14, False, 4),
    (64, 14, True, 8),
    (64, 16, False, 4),
    (64, 16, True, 8),
    (64, 0, False, 4),
    (32, 7, False, 8),
    (32, 8, False, 8),
]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("width", [32, 56, 72, 96])
@pytest.mark.parametrize(("side", "window", "pool", "heads"), STAGES)
def test_the_stages_of_sam2(
    side: int, window: int, pool: bool, heads: int, width: int, dtype: torch.dtype, device: str
) -> None:
    check((side, side), window, pool, heads, width, dtype, device)


@pytest.mark.parametrize(("grid", "window", "pool"), CASES)
def test_pytorchs_path_equals_upstream(grid: tuple[int, int], window: int, pool: bool) -> None:
    qkv, padding = draw(2, *grid, 3, 8, torch.float64, "cpu")
    with dispatch.using("off"):
        ours = window_attention(qkv, padding, 3, window, pool)
    assert dispatch.last_path(NAME if window or pool else "masked_attention") == "torch"
    expected = upstream(qkv, padding, 3, window, pool)
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    rows=st.integers(2, 18),
    columns=st.integers(2, 18),
    window=st.integers(0, 9),
    pool=st.booleans(),
    tile=st.sampled_from(TILES),
)
def test_any_grid(rows: int, columns: int, window: int, pool: bool, tile: Tile) -> None:
    """Compared with our PyTorch path in float64: upstream fails for some odd grids."""
    window -= window % 2 if pool else 0
    device = "cuda" if torch.cuda.is_available() else "cpu"
    qkv, padding = draw(2, rows, columns, 2, 24, torch.float32, device)
    cut = window and (rows % window or columns % window)
    exact = reference(qkv.double(), padding.double() if cut else None, 2, window, pool)
    ours = torch.full_like(exact, float("nan"), dtype=torch.float32)
    launch(qkv, padding if cut else None, ours, 2, window, pool, tile)
    torch.testing.assert_close(ours.double(), exact, atol=3e-6, rtol=0)


@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize(
    ("grid", "window", "pool"),
    [((12, 20), 4, False), ((12, 20), 4, True), ((10, 9), 8, False), ((16, 18), 14, True)],
)
def test_writes_its_output_and_nothing_else(
    grid: tuple[int, int], window: int, pool: bool, tile: Tile, device: str
) -> None:
    """Every element of the output and none around it, from strided rows surrounded by NaN."""
    poison, heads, width = 1e4, 2, 40
    drawn, padding = draw(2, *grid, heads, width, torch.float32, device)
    (rows, columns), packed = grid, 3 * heads * width
    around = torch.full((4, rows + 3, columns + 5, packed + 16), float("nan"), device=device)
    qkv = around[1:3, 2:-1, 1:-4, 8:-8]
    qkv.copy_(drawn)
    bands = torch.full((packed + 16,), float("nan"), device=device)
    bands[8:-8] = padding
    stride = 2 if pool else 1
    rows, columns = rows // stride, columns // stride
    target = torch.full((4, rows + 2, columns + 2, packed // 3 + 16), poison, device=device)
    out = target[1:3, 1:-1, 1:-1, 8:-8]
    cut = grid[0] % window or grid[1] % window
    launch(qkv, bands[8:-8] if cut else None, out, heads, window, pool, tile)
    exact = upstream(drawn.double(), padding.double(), heads, window, pool)
    assert_as_accurate(out, upstream(drawn, padding, heads, window, pool), exact)
    out.fill_(poison)
    assert (target == poison).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("window", [4, 8])
@pytest.mark.parametrize("grid", [(8, 16), (6, 10), (10, 7)])
def test_an_exact_mean(
    grid: tuple[int, int], window: int, pool: bool, dtype: torch.dtype, device: str
) -> None:
    """Queries of 0: the exact mean of each window's whole numbers, padding included."""
    heads, width = 2, 16
    generator = torch.Generator().manual_seed(9)
    qkv = torch.randint(-8, 9, (2, *grid, 3 * heads * width), generator=generator).float() * 64
    qkv[..., : heads * width] = 0
    padding = torch.randint(-8, 9, (3 * heads * width,), generator=generator).float() * 64
    with dispatch.using("require"):
        ours = window_attention(
            qkv.to(device, dtype), padding.to(device, dtype), heads, window, pool
        )
    assert dispatch.last_path(NAME) == "triton"
    for y, x in itertools.product(range(ours.shape[1]), range(ours.shape[2])):
        top, left = (position * (1 + pool) // window * window for position in (y, x))
        values = qkv[:, top : top + window, left : left + window, 2 * heads * width :]
        values = values.flatten(1, 2)
        missing = window**2 - values.shape[1]
        mean = (values.sum(1) + missing * padding[2 * heads * width :]) / window**2
        assert torch.equal(ours[:, y, x].cpu(), mean.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize(("grid", "window"), [((16, 18), 14), ((8, 12), 4), ((16, 16), 16)])
def test_whole_numbers_come_out_exactly(
    grid: tuple[int, int], window: int, tile: Tile, dtype: torch.dtype, device: str
) -> None:
    """Each query selects one key of its window: the output is exactly that key's value."""
    width, padding = 64, torch.zeros(3 * 64)
    generator = torch.Generator().manual_seed(8)
    shape = (1, *grid, width)
    keys = torch.randint(0, 2, shape, generator=generator) * 2.0 - 1
    place = torch.arange(grid[0] * grid[1]).reshape(1, *grid)
    keys[..., :9] = torch.stack([2.0 * (place >> bit & 1) - 1 for bit in range(9)], -1)
    values = torch.randint(-99, 100, shape, generator=generator).float()
    queries, expected = torch.empty(shape), torch.empty(shape)
    for y, x in itertools.product(range(0, grid[0], window), range(0, grid[1], window)):
        inside = (0, slice(y, y + window), slice(x, x + window))
        side = keys[inside].shape[:2]
        aim = torch.randperm(side[0] * side[1], generator=generator)
        queries[inside] = keys[inside].flatten(0, 1)[aim].unflatten(0, side)
        expected[inside] = values[inside].flatten(0, 1)[aim].unflatten(0, side)
    qkv = torch.cat([queries * 64, keys * 64, values], -1).to(device, dtype)
    out = torch.empty(shape, dtype=dtype, device=device)
    cut = grid[0] % window or grid[1] % window
    launch(qkv, padding.to(device, dtype) if cut else None, out, 1, window, False, tile)
    assert torch.equal(out.cpu().float(), expected)


def test_the_whole_grid_is_masked_attention(device: str) -> None:
    qkv, padding = draw(2, 5, 6, 2, 32, torch.float32, device)
    with dispatch.using("require"):
        ours = window_attention(qkv, padding, 2, 0)
        expected = masked_attention(qkv.flatten(1, 2), None, 2)
    assert torch.equal(ours.flatten(1, 2), expected)


def test_padding_is_rounded_to_the_tokens_dtype(device: str) -> None:
    qkv, _ = draw(1, 5, 6, 2, 32, torch.float16, device)
    padding = 1 + torch.linspace(0, 1e-4, 192, device=device)
    with dispatch.using("require"):
        ours = window_attention(qkv, padding, 2, 4)
        assert torch.equal(ours, window_attention(qkv, padding.half(), 2, 4))


@pytest.mark.parametrize(("window", "pool"), [(4, False), (4, True), (6, True)])
def test_an_image_gives_the_same_bits_in_any_batch(window: int, pool: bool, device: str) -> None:
    qkv, padding = draw(3, 8, 8, 2, 32, torch.float32, device)
    with dispatch.using("require"):
        batched = window_attention(qkv, padding, 2, window, pool)
        for image in range(3):
            single = window_attention(qkv[image : image + 1], padding, 2, window, pool)
            assert torch.equal(batched[image], single[0])


def test_nan_in_a_pooled_query_is_not_hidden(device: str) -> None:
    qkv, padding = draw(1, 8, 8, 1, 16, torch.float32, device)
    for at in ((0, 2), (5, 4), (2, 7), (7, 1)):
        qkv[0, *at, 3] = float("nan")
    with dispatch.using("require"):
        nan = window_attention(qkv, padding, 1, 8, True).isnan().all(-1)[0]
    assert nan.nonzero().tolist() == [[0, 1], [1, 3], [2, 2], [3, 0]]


def test_an_empty_batch(device: str) -> None:
    qkv, padding = torch.zeros(0, 5, 6, 96, device=device), torch.zeros(96, device=device)
    for mode in ("require", "off"):
        with dispatch.using(mode):
            assert window_attention(qkv, padding, 2, 4).shape == (0, 5, 6, 32)
            assert window_attention(qkv, padding, 2, 4, True).shape == (0, 2, 3, 32)


@pytest.mark.parametrize(("window", "pool"), [(2, False), (2, True), (0, True)])
def test_gradients_of_the_formula(window: int, pool: bool) -> None:
    qkv, padding = draw(1, 3, 4, 1, 4, torch.float64, "cpu")
    inputs = (qkv.requires_grad_(), padding.requires_grad_(window > 0))
    assert torch.autograd.gradcheck(lambda a, b: window_attention(a, b, 1, window, pool), inputs)


@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("pool", [False, True])
def test_gradients_of_the_kernel(pool: bool, wanted: tuple[bool, bool], device: str) -> None:
    """Equal to those of PyTorch's path, and computed only for inputs that need one."""
    found = []
    for mode in ("require", "off"):
        qkv, padding = draw(2, 6, 10, 2, 16, torch.float32, device)
        qkv.requires_grad_(wanted[0])
        padding.requires_grad_(wanted[1])
        with dispatch.using(mode):
            output = window_attention(qkv, padding, 2, 4, pool)
        (
            output * torch.linspace(-1, 1, output.numel(), device=device).view_as(output)
        ).sum().backward()
        found.append([qkv.grad, padding.grad])
    for ours, expected, needed in zip(*found, wanted, strict=True):
        assert (ours is not None) == (expected is not None) == needed
        if needed:
            assert expected.abs().max() > 0
            torch.testing.assert_close(ours, expected)


@pytest.mark.long
def test_torch_can_trace_the_operator(device: str) -> None:
    qkv, padding = draw(2, 6, 6, 1, 16, torch.float32, device)
    arguments = (qkv.requires_grad_(), padding.requires_grad_(), 1, 4, True)
    with dispatch.using("require"):
        torch.library.opcheck(torch.ops.medfocus.window_attention, arguments)


def refused() -> Iterator[tuple[str, Tensor, Tensor, int, int, bool]]:
    qkv, padding = torch.zeros(2, 5, 6, 96), torch.zeros(96)
    yield "qkv", qkv[0], padding, 2, 4, False
    yield "qkv", qkv.int(), padding, 2, 4, False
    yield "qkv", qkv[:, :, :0], padding, 2, 4, False
    yield "qkv", qkv[..., :90], padding[:90], 4, 4, False
    yield "qkv", torch.zeros(2, 5, 96, 6).transpose(2, 3), padding, 2, 4, False
    yield "qkv", qkv[:, :1], padding, 2, 4, True
    yield "padding", qkv, torch.zeros(95), 2, 4, False
    yield "padding", qkv, torch.zeros(1, 96), 2, 4, False
    yield "padding", qkv, padding.int(), 2, 4, False
    yield "padding", qkv, padding.to("meta"), 2, 4, False
    yield "num_heads", qkv, padding, 0, 4, False
    yield "window", qkv, padding, 2, -1, False
    yield "window", qkv, padding, 2, 5, True


@pytest.mark.parametrize(("argument", "qkv", "padding", "heads", "window", "pool"), list(refused()))
def test_arguments_that_do_not_fit(
    argument: str, qkv: Tensor, padding: Tensor, heads: int, window: int, pool: bool
) -> None:
    with refuses(InputError, "input.invalid", argument):
        window_attention(qkv, padding, heads, window, pool)


@pytest.mark.usefixtures("kernel_required")
@pytest.mark.parametrize(
    ("qkv", "reason"),
    [
        (torch.zeros(1, 4, 4, 3 * 20), "D = 20"),
        (torch.zeros(1, 4, 4, 3 * 136), "D = 136"),
        (torch.zeros(1, 4, 4, 3 * 16, dtype=torch.float64), "float64"),
        (torch.empty_strided((1, 2, 2, 48), (0, 2**30, 48, 1), device="meta"), "2^31"),
        (torch.empty_strided((1, 2, 2, 48), (0, 48, 2**30, 1), device="meta"), "2^31"),
    ],
)
def test_a_required_kernel_refuses_what_it_does_not_support(qkv: Tensor, reason: str) -> None:
    padding = torch.zeros(qkv.shape[-1], dtype=qkv.dtype, device=qkv.device)
    with refuses(InputError, "kernel.unsupported", "window_attention") as caught:
        window_attention(qkv, padding, 1, 2)
    assert reason in caught.value.problem
