"""Attention with one query per image, compared with the formula in float64.

Without a GPU the kernel runs in Triton's interpreter, on fewer shapes and without bfloat16.
"""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from medfocus.errors import InputError
from medfocus.kernels import dispatch, masked_attention
from medfocus.kernels.cls_attention import cls_attention, launch, reference, tile_for
from medfocus.kernels.tile import Tile
from tests.errors import refuses
from tests.kernels.accuracy import assert_as_accurate

NAME = "cls_attention"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the whole sweep needs a GPU")
DTYPES = [torch.bfloat16] * torch.cuda.is_available() + [torch.float16, torch.float32]
BIASES = ["none", "keys", "heads", "-1e4", "-inf", "mixed", "first only", "nothing"]
TOKENS = [1, 2, 17, 50, 65, 197]
WIDTHS = [32, 56, 64, 72, 80, 96, 128]


def by_the_formula(
    q: Tensor, kv: Tensor, key_bias: Tensor | None, heads: int, scale: float | None = None
) -> Tensor:
    """Head by head, weights written out; float64."""
    k, v = kv.double().chunk(2, -1)
    width = q.shape[1] // heads
    outputs = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        logits = (k[..., part] * q.double()[:, None, part]).sum(-1)
        logits = logits * (width**-0.5 if scale is None else scale)
        if key_bias is not None:
            logits = logits + (key_bias if key_bias.ndim == 2 else key_bias[:, head]).double()
        weights = torch.nan_to_num(logits.softmax(-1), nan=0.0)
        outputs.append((weights[..., None] * v[..., part]).sum(1))
    return torch.cat(outputs, -1)


def tokens_of(
    batch: int, tokens: int, columns: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor]:
    """(B, H·D) and (B, N, 2·H·D)."""
    generator = torch.Generator().manual_seed(tokens * 100 + columns)
    q = torch.randn(batch, columns, generator=generator)
    kv = torch.randn(batch, tokens, 2 * columns, generator=generator)
    return q.to(device, dtype), kv.to(device, dtype)


def bias_of(kind: str, batch: int, heads: int, tokens: int, device: str) -> Tensor | None:
    infinite = float("-inf")
    drawn = torch.rand(batch, heads, tokens, generator=torch.Generator().manual_seed(tokens))
    first = torch.full((batch, tokens), infinite)
    first[:, 0] = 0
    biases = {
        "none": None,
        "keys": -5 * drawn[:, 0],
        "heads": -5 * drawn,
        "-1e4": torch.where(drawn[:, 0] < 0.5, 0.0, -1e4),
        "-inf": torch.where(drawn[:, 0] < 0.5, 0.0, infinite),
        "mixed": torch.where(drawn < 0.3, -1e4, torch.where(drawn < 0.6, infinite, -drawn)),
        "first only": first,
        "nothing": torch.full((batch, tokens), infinite),
    }
    bias = biases[kind]
    return None if bias is None else bias.to(device)


def check(
    batch: int, tokens: int, heads: int, width: int, kind: str, dtype: torch.dtype, device: str
) -> None:
    q, kv = tokens_of(batch, tokens, heads * width, dtype, device)
    bias = bias_of(kind, batch, heads, tokens, device)
    with dispatch.using("require"):
        ours = cls_attention(q, kv, bias, heads)
    assert dispatch.last_path(NAME) == "triton"
    # PyTorch's fused paths give NaN for a query without keys; its math path gives zeros, as ours.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        baseline = reference(q, kv, bias, heads, width**-0.5)
    assert_as_accurate(ours, baseline, by_the_formula(q, kv, bias, heads))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", BIASES)
@pytest.mark.parametrize("tokens", TOKENS)
def test_biases(tokens: int, kind: str, dtype: torch.dtype, device: str) -> None:
    check(2, tokens, 3, 64, kind, dtype, device)


@pytest.mark.parametrize(
    ("width", "dtype"),
    list(itertools.product([16, *WIDTHS], DTYPES)),
)
def test_widths(width: int, dtype: torch.dtype, device: str) -> None:
    check(2, 67, 2, width, "heads", dtype, device)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("tokens", [*TOKENS, 64, 257, 577, 1025])
def test_the_whole_sweep(tokens: int, width: int, dtype: torch.dtype, device: str) -> None:
    """Batches and heads in turns: not all at each shape, for several processes share the GPU."""
    for index, kind in enumerate(BIASES):
        batch, heads = 1 + (tokens + width // 8 + index) % 8, [1, 3, 12, 16][(tokens + index) % 4]
        check(batch, tokens, heads, width, kind, dtype, device)


@pytest.mark.parametrize("mode", ["require", "off"])
def test_it_is_the_first_row_of_self_attention(mode: dispatch.Mode, device: str) -> None:
    """With the weight's rows for q, k and v in the order of the projection."""
    generator = torch.Generator().manual_seed(6)
    qkv = torch.randn(2, 50, 3 * 96, generator=generator).to(device)
    bias = bias_of("keys", 2, 3, 50, device)
    with dispatch.using(mode):
        ours = cls_attention(qkv[:, 0, :96], qkv[:, :, 96:], bias, 3)
    with dispatch.using("off"):
        expected = masked_attention(qkv, bias, 3)[:, 0]
    torch.testing.assert_close(ours, expected, atol=2e-6, rtol=1e-5)


@pytest.fixture(params=[8, 64, 128])
def tile(request: pytest.FixtureRequest) -> Tile:
    return Tile(1, request.param, warps=4, stages=2)


@pytest.mark.parametrize("width", [40, 64])
@pytest.mark.parametrize("tokens", [1, 64, 197])
def test_writes_its_output_and_nothing_else(
    tokens: int, width: int, tile: Tile, device: str
) -> None:
    """Every element of the output and none around it, from strided rows surrounded by NaN."""
    poison, heads, columns = 1e4, 2, 2 * width
    queries = torch.full((4, columns + 16), float("nan"), device=device)
    packed = torch.full((4, tokens + 3, 2 * columns + 16), float("nan"), device=device)
    biases = torch.full((2, heads, tokens + 4), float("nan"), device=device)
    around = torch.full((4, columns + 16), poison, device=device)
    q, kv, bias = queries[1:3, 8:-8], packed[1:3, 2 : tokens + 2, 8:-8], biases[..., 1:-3]
    drawn_q, drawn_kv = tokens_of(2, tokens, columns, torch.float32, device)
    q.copy_(drawn_q)
    kv.copy_(drawn_kv)
    bias.copy_(-5 * torch.rand(2, heads, tokens, generator=torch.Generator().manual_seed(3)))
    out = around[1:3, 8:-8]
    launch(q, kv, bias, out, heads, width**-0.5, tile)
    baseline = reference(q, kv, bias, heads, width**-0.5)
    assert_as_accurate(out, baseline, by_the_formula(q, kv, bias, heads))
    out.fill_(poison)
    assert (around == poison).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_numbers_come_out_exactly(tile: Tile, dtype: torch.dtype, device: str) -> None:
    """Four keys tie far above the others: the exact mean of their whole values."""
    batch, tokens, width = 3, 197, 72
    generator = torch.Generator().manual_seed(8)
    q = torch.randint(-2, 3, (batch, width), generator=generator).float()
    key = torch.randint(-2, 3, (batch, 1, width), generator=generator).float()
    values = torch.randint(-99, 100, (batch, tokens, width), generator=generator).float() * 4
    q[:, 0] = 16
    keys = key.repeat(1, tokens, 1)
    keys[..., 0] = -64
    expected = []
    for image in range(batch):
        chosen = torch.randperm(tokens, generator=generator)[:4]
        keys[image, chosen, 0] = 0
        expected.append(values[image, chosen].mean(0))
    kv = torch.cat([keys, values], -1)
    out = torch.empty(batch, width, dtype=dtype, device=device)
    launch(q.to(device, dtype), kv.to(device, dtype), None, out, 1, 1.0, tile)
    assert torch.equal(out.cpu().float(), torch.stack(expected))


def test_a_later_key_far_above_the_others(device: str) -> None:
    """The online softmax discards what was summed under a lower maximum, in every lane."""
    q, kv = tokens_of(1, 300, 32, torch.float32, device)
    kv[0, 299, :32] = 1e3 * q[0]
    with dispatch.using("require"):
        ours = cls_attention(q, kv, None, 1)
    assert torch.equal(ours[0], kv[0, 299, 32:])


@pytest.mark.parametrize("mode", ["require", "off"])
def test_a_given_scale(mode: dispatch.Mode, device: str) -> None:
    q, kv = tokens_of(2, 29, 32, torch.float32, device)
    with dispatch.using(mode):
        ours = cls_attention(q, kv, None, 2, 0.7)
    assert_as_accurate(ours, reference(q, kv, None, 2, 0.7), by_the_formula(q, kv, None, 2, 0.7))


@pytest.mark.parametrize("tokens", [1, 17, 197])
@pytest.mark.parametrize("kind", BIASES)
def test_pytorchs_path_against_float64(tokens: int, kind: str) -> None:
    q, kv = tokens_of(2, tokens, 72, torch.float32, "cpu")
    bias = bias_of(kind, 2, 3, tokens, "cpu")
    with dispatch.using("off"):
        ours = cls_attention(q, kv, bias, 3)
    assert dispatch.last_path(NAME) == "torch"
    expected = by_the_formula(q, kv, bias, 3)
    torch.testing.assert_close(ours.double(), expected, atol=2e-6, rtol=1e-5)


def test_an_empty_batch(device: str) -> None:
    with dispatch.using("require"):
        output = cls_attention(
            torch.zeros(0, 32, device=device), torch.zeros(0, 5, 64, device=device), None, 2
        )
    assert output.shape == (0, 32)


def test_gradients_of_the_formula() -> None:
    q, kv = tokens_of(1, 4, 16, torch.float64, "cpu")
    bias = (-torch.rand(1, 2, 4, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b, c: cls_attention(a, b, c, 2), (q.requires_grad_(), kv.requires_grad_(), bias)
    )


@pytest.mark.parametrize("wanted", list(itertools.product([True, False], repeat=3))[:-1])
def test_gradients_of_the_kernel(wanted: tuple[bool, bool, bool], device: str) -> None:
    """Equal to those of PyTorch's path, and computed only for inputs that need one."""
    weights = torch.rand(2, 32, generator=torch.Generator().manual_seed(2)).to(device)
    found = []
    for mode in ("require", "off"):
        q, kv = tokens_of(2, 19, 32, torch.float32, device)
        bias = bias_of("heads", 2, 2, 19, device)
        assert bias is not None
        inputs = (q, kv, bias)
        for tensor, needed in zip(inputs, wanted, strict=True):
            tensor.requires_grad_(needed)
        with dispatch.using(mode):
            (cls_attention(q, kv, bias, 2) * weights).sum().backward()
        found.append([tensor.grad for tensor in inputs])
    for ours, expected in zip(*found, strict=True):
        if expected is None:
            assert ours is None
        else:
            torch.testing.assert_close(ours, expected)


def test_torch_can_trace_the_operator(device: str) -> None:
    q, kv = tokens_of(2, 5, 32, torch.float32, device)
    bias = -torch.rand(2, 5, device=device)
    arguments = (q.requires_grad_(), kv.requires_grad_(), bias, 2, 0.25)
    torch.library.opcheck(torch.ops.medfocus.cls_attention, arguments)


def refused() -> Iterator[tuple[str, Tensor, Tensor, Tensor | None, int]]:
    q, kv = torch.zeros(2, 32), torch.zeros(2, 5, 64)
    for shape in [(2, 6), (3, 5), (2, 3, 5), (5,), (2, 2, 1, 5)]:
        yield "key_bias", q, kv, torch.zeros(shape), 2
    yield "key_bias", q, kv, torch.zeros(2, 5, dtype=torch.float16), 2
    yield "key_bias", q, kv, torch.zeros(2, 5, device="meta"), 2
    for other in [q[:1], q[:, :16], q[None], q.half(), q.int(), q.to("meta"), torch.zeros(32, 2).T]:
        yield "q", other, kv, None, 2
    yield "kv", q, kv[:, :, :60], None, 8
    yield "kv", q, kv[0], None, 2
    yield "kv", q, kv.int(), None, 2
    yield "kv", q, kv[:, :0], None, 2
    yield "kv", q, torch.zeros(2, 64, 5).transpose(1, 2), None, 2
    yield "num_heads", q, kv, None, 0


@pytest.mark.parametrize("mode", ["require", "off"])
@pytest.mark.parametrize(("argument", "q", "kv", "bias", "heads"), list(refused()))
def test_arguments_that_do_not_fit(
    argument: str, q: Tensor, kv: Tensor, bias: Tensor | None, heads: int, mode: dispatch.Mode
) -> None:
    with dispatch.using(mode), refuses(InputError, "input.invalid", argument):
        cls_attention(q, kv, bias, heads)


@pytest.mark.usefixtures("kernel_required")
@pytest.mark.parametrize(
    ("width", "dtype", "reason"),
    [
        (20, torch.float32, "D = 20"),
        (136, torch.float16, "D = 136"),
        (16, torch.float64, "float64"),
    ],
)
def test_a_required_kernel_refuses_what_it_does_not_support(
    width: int, dtype: torch.dtype, reason: str, device: str
) -> None:
    q, kv = tokens_of(1, 5, width, dtype, device)
    with refuses(InputError, "kernel.unsupported", NAME) as caught:
        cls_attention(q, kv, None, 1)
    assert reason in caught.value.problem


def test_nan_in_the_bias_is_refused_where_values_are_checked(device: str) -> None:
    bias = torch.tensor([[0.0, float("nan")]], device=device)
    q, kv = tokens_of(1, 2, 16, torch.float32, device)
    cls_attention(q, kv, bias, 1)
    with dispatch.using("on", checks=True), refuses(InputError, "input.not_finite", "key_bias"):
        cls_attention(q, kv, bias, 1)


@pytest.mark.parametrize("width", range(16, 129, 8))
def test_a_tile_has_the_same_number_of_elements_at_every_width(width: int) -> None:
    columns = 1 << (width - 1).bit_length()
    assert tile_for(width).block_n * columns == 64 * 64
