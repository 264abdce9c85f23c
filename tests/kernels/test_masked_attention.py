"""Attention with a bias per key on packed QKV, compared with the formula in float64.

Without a GPU the kernel runs in Triton's interpreter, on fewer shapes and without bfloat16.
"""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from medfocus.errors import InputError
from medfocus.kernels import dispatch, masked_attention
from medfocus.kernels.masked_attention import launch, reference
from medfocus.kernels.tile import Tile, choose
from tests.errors import refuses
from tests.kernels.accuracy import assert_as_accurate

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the whole sweep needs a GPU")
DTYPES = [torch.bfloat16] * torch.cuda.is_available() + [torch.float16, torch.float32]
BIASES = ["none", "keys", "heads", "-1e4", "-inf", "mixed", "all -1e4", "CLS only", "nothing"]


def by_the_formula(
    qkv: Tensor, key_bias: Tensor | None, heads: int, scale: float | None = None
) -> Tensor:
    """Head by head, weights written out; float64."""
    qkv = qkv.double()
    q, k, v = qkv.chunk(3, -1)
    width = q.shape[-1] // heads
    outputs = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        logits = q[..., part] @ k[..., part].transpose(1, 2)
        logits = logits * (width**-0.5 if scale is None else scale)
        if key_bias is not None:
            bias = key_bias if key_bias.dim() == 2 else key_bias[:, head]
            logits = logits + bias.double()[:, None, :]
        weights = torch.nan_to_num(logits.softmax(-1), nan=0.0)
        outputs.append(weights @ v[..., part])
    return torch.cat(outputs, -1)


def tokens_of(
    batch: int, tokens: int, heads: int, width: int, dtype: torch.dtype, device: str
) -> Tensor:
    generator = torch.Generator().manual_seed(tokens * 100 + heads)
    qkv = torch.randn(batch, tokens, 3 * heads * width, generator=generator)
    return qkv.to(device, dtype)


def bias_of(kind: str, batch: int, heads: int, tokens: int, device: str) -> Tensor | None:
    generator = torch.Generator().manual_seed(tokens)
    drawn = torch.rand(batch, heads, tokens, generator=generator)
    soft, chosen = -5 * drawn[:, 0], drawn[:, 0] < 0.5
    chosen[:, 0] = True
    only = torch.full((batch, tokens), float("-inf"))
    only[:, 0] = 0
    biases = {
        "none": None,
        "keys": soft,
        "heads": -5 * drawn,
        "-1e4": torch.where(chosen, 0.0, -1e4),
        "-inf": torch.where(chosen, 0.0, float("-inf")),
        "mixed": torch.where(drawn < 0.3, -1e4, torch.where(drawn < 0.6, -torch.inf, -drawn)),
        "all -1e4": torch.full((batch, tokens), -1e4),
        "CLS only": only,
        "nothing": torch.full((batch, tokens), float("-inf")),
    }
    bias = biases[kind]
    return None if bias is None else bias.to(device)


def check(
    batch: int, tokens: int, heads: int, width: int, kind: str, dtype: torch.dtype, device: str
) -> None:
    qkv = tokens_of(batch, tokens, heads, width, dtype, device)
    bias = bias_of(kind, batch, heads, tokens, device)
    with dispatch.using("require"):
        ours = masked_attention(qkv, bias, heads)
    assert dispatch.last_path("masked_attention") == "triton"
    # PyTorch's fused paths give NaN for a query without keys; its math path gives zeros, as ours.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        baseline = reference(qkv, bias, heads, width**-0.5)
    assert_as_accurate(ours, baseline, by_the_formula(qkv, bias, heads))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", BIASES)
@pytest.mark.parametrize("tokens", [1, 2, 17, 65, 197])
def test_biases(tokens: int, kind: str, dtype: torch.dtype, device: str) -> None:
    check(2, tokens, 3, 64, kind, dtype, device)


@pytest.mark.parametrize(
    ("width", "dtype"),
    list(itertools.product(range(16, 129, 8), DTYPES)),
)
def test_widths(width: int, dtype: torch.dtype, device: str) -> None:
    check(1, 67, 2, width, "heads", dtype, device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [50, 64, 257, 577])
def test_lengths(tokens: int, dtype: torch.dtype, device: str) -> None:
    check(1, tokens, 1, 64, "keys", dtype, device)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("width", [32, 56, 64, 72, 80, 96, 128])
@pytest.mark.parametrize("tokens", [1, 2, 17, 50, 64, 65, 197, 257, 577, 1025])
def test_the_whole_sweep(tokens: int, width: int, dtype: torch.dtype, device: str) -> None:
    """Batches and heads in turns: not all at each shape, for several processes share the GPU."""
    for index, kind in enumerate(BIASES):
        batch, heads = 1 + (tokens + width // 8 + index) % 8, [1, 3, 12, 16][(tokens + index) % 4]
        check(batch, tokens, heads, width, kind, dtype, device)


@pytest.fixture(params=[(64, 64, 4), (128, 64, 8), (32, 16, 4)], ids=str)
def tile(request: pytest.FixtureRequest) -> Tile:
    rows, keys, warps = request.param
    return Tile(rows, keys, warps, stages=2)


@pytest.mark.parametrize("tokens", [5, 64, 197, 261])
def test_writes_its_output_and_nothing_else(tokens: int, tile: Tile, device: str) -> None:
    """Every element of the output and none around it, from strided rows surrounded by NaN."""
    poison, heads, width = 1e4, 2, 40
    packed = torch.full((4, tokens + 3, 3 * heads * width + 16), float("nan"), device=device)
    qkv = packed[1:3, 2 : tokens + 2, 8:-8]
    qkv.copy_(tokens_of(2, tokens, heads, width, torch.float32, device))
    biases = torch.full((2, tokens + 4), float("nan"), device=device)
    bias = biases[:, 1 : tokens + 1]
    bias.copy_(-5 * torch.rand(2, tokens, generator=torch.Generator().manual_seed(3)))
    around = torch.full((4, tokens + 2, heads * width + 16), poison, device=device)
    out = around[1:3, 1:-1, 8:-8]
    launch(qkv, bias, out, heads, width**-0.5, tile)
    exact = by_the_formula(qkv, bias, heads)
    assert_as_accurate(out, reference(qkv, bias, heads, width**-0.5), exact)
    out.fill_(poison)
    assert (around == poison).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_numbers_come_out_exactly(tile: Tile, dtype: torch.dtype, device: str) -> None:
    """Each query selects one key, far above the others: the output is exactly its value."""
    tokens, heads, width = 197, 2, 64
    generator = torch.Generator().manual_seed(8)
    bits = torch.randint(0, 2, (tokens, heads, width), generator=generator) * 2.0 - 1
    bits[:, :, :8] = torch.tensor([2.0 * (n >> i & 1) - 1 for n in range(tokens) for i in range(8)]
                                  ).reshape(tokens, 1, 8)  # fmt: skip  # no two keys alike
    aim = torch.stack([torch.randperm(tokens, generator=generator) for _ in range(heads)], 1)
    keys = bits * 64
    queries = keys.gather(0, aim[..., None].expand(-1, -1, width))
    values = torch.randint(-99, 100, (tokens, heads, width), generator=generator).float()
    qkv = torch.stack([queries, keys, values]).permute(1, 0, 2, 3).reshape(1, tokens, -1)
    out = torch.empty(1, tokens, heads * width, dtype=dtype, device=device)
    launch(qkv.to(device, dtype), None, out, heads, 1.0, tile)
    expected = values.gather(0, aim[..., None].expand(-1, -1, width)).reshape(1, tokens, -1)
    assert torch.equal(out.cpu().float(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_exact_mean(tile: Tile, dtype: torch.dtype, device: str) -> None:
    """All logits equal, 64 keys kept: the exact mean of whole numbers."""
    tokens, heads, width = 257, 1, 16
    generator = torch.Generator().manual_seed(9)
    kept = torch.randperm(tokens, generator=generator)[:64]
    bias = torch.full((1, tokens), float("-inf"))
    bias[0, kept] = 0
    values = torch.randint(-8, 9, (tokens, width), generator=generator).float() * 64
    qkv = torch.cat([torch.zeros(tokens, 2 * width), values], 1)[None]
    out = torch.empty(1, tokens, width, dtype=dtype, device=device)
    launch(qkv.to(device, dtype), bias.to(device), out, heads, 1.0, tile)
    assert torch.equal(out.cpu().float(), values[kept].mean(0).expand(1, tokens, -1))


def test_a_given_scale(device: str) -> None:
    qkv = tokens_of(1, 9, 2, 16, torch.float32, device)
    expected = by_the_formula(qkv, None, 2, 0.7)
    for mode in ("require", "off"):
        with dispatch.using(mode):
            ours = masked_attention(qkv, None, 2, 0.7)
        assert_as_accurate(ours, reference(qkv, None, 2, 0.7), expected)


@pytest.mark.parametrize("tokens", [1, 2, 17, 197])
@pytest.mark.parametrize(("heads", "width"), [(1, 16), (3, 64), (2, 72)])
@pytest.mark.parametrize("kind", ["none", "keys", "heads", "-1e4", "-inf", "nothing"])
def test_pytorchs_path_against_float64(tokens: int, heads: int, width: int, kind: str) -> None:
    qkv = tokens_of(2, tokens, heads, width, torch.float32, "cpu")
    bias = bias_of(kind, 2, heads, tokens, "cpu")
    with dispatch.using("off"):
        ours = masked_attention(qkv, bias, heads)
    assert dispatch.last_path("masked_attention") == "torch"
    expected = by_the_formula(qkv, bias, heads)
    torch.testing.assert_close(ours.double(), expected, atol=2e-6, rtol=1e-5)


def test_rows_without_keys_give_zeros(device: str) -> None:
    bias = torch.zeros(2, 5, device=device)
    bias[1] = float("-inf")
    qkv = tokens_of(2, 5, 2, 16, torch.float32, device)
    for mode in ("require", "off"):
        with dispatch.using(mode):
            output = masked_attention(qkv, bias, 2)
        assert (output[1] == 0).all()
        assert output[0].abs().min() > 0


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # the interpreter's NumPy
def test_nan_tokens_are_not_hidden(device: str) -> None:
    qkv = tokens_of(1, 5, 1, 16, torch.float32, device)
    qkv[0, 2] = float("nan")
    with dispatch.using("require"):
        assert masked_attention(qkv, None, 1).isnan().all()


def test_an_empty_batch(device: str) -> None:
    with dispatch.using("require"):
        assert masked_attention(torch.zeros(0, 5, 96, device=device), None, 2).shape == (0, 5, 32)


def test_gradients_of_the_formula() -> None:
    qkv = tokens_of(1, 4, 2, 8, torch.float64, "cpu").requires_grad_()
    bias = (-torch.rand(1, 4, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: masked_attention(a, b, 2), (qkv, bias))


@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_gradients_of_the_kernel(wanted: tuple[bool, bool], device: str) -> None:
    """Equal to those of PyTorch's path, and computed only for inputs that need one."""
    weights = torch.rand(2, 19, 32, generator=torch.Generator().manual_seed(2)).to(device)
    found = []
    for mode in ("require", "off"):
        qkv = tokens_of(2, 19, 2, 16, torch.float32, device).requires_grad_(wanted[0])
        bias = bias_of("heads", 2, 2, 19, device)
        assert bias is not None
        bias.requires_grad_(wanted[1])
        with dispatch.using(mode):
            (masked_attention(qkv, bias, 2) * weights).sum().backward()
        found.append([qkv.grad, bias.grad])
    for ours, expected in zip(*found, strict=True):
        if expected is None:
            assert ours is None
        else:
            torch.testing.assert_close(ours, expected)


def test_torch_can_trace_the_operator(device: str) -> None:
    qkv = tokens_of(2, 5, 2, 16, torch.float32, device).requires_grad_()
    bias = -torch.rand(2, 5, device=device)
    with dispatch.using("require"):
        torch.library.opcheck(torch.ops.medfocus.masked_attention, (qkv, bias, 2, 0.25))


def refused() -> Iterator[tuple[str, Tensor, Tensor | None, int]]:
    qkv = torch.zeros(2, 5, 96)
    for shape in [(2, 6), (3, 5), (2, 3, 5), (5,), (2, 2, 5, 5)]:
        yield "key_bias", qkv, torch.zeros(shape), 2
    yield "key_bias", qkv, torch.zeros(2, 5, dtype=torch.float16), 2
    yield "key_bias", qkv, torch.zeros(2, 5, device="meta"), 2
    yield "qkv", qkv[:, :, :90], None, 4
    yield "qkv", qkv[0], None, 2
    yield "qkv", qkv.int(), None, 2
    yield "qkv", qkv[:, :0], None, 2
    yield "qkv", torch.zeros(2, 96, 5).transpose(1, 2), None, 2
    yield "num_heads", qkv, None, 0


@pytest.mark.parametrize(("argument", "qkv", "bias", "heads"), list(refused()))
def test_arguments_that_do_not_fit(
    argument: str, qkv: Tensor, bias: Tensor | None, heads: int
) -> None:
    with refuses(InputError, "input.invalid", argument):
        masked_attention(qkv, bias, heads)


@pytest.mark.usefixtures("kernel_required")
@pytest.mark.parametrize(
    ("qkv", "reason"),
    [
        (torch.zeros(1, 5, 3 * 20), "D = 20"),
        (torch.zeros(1, 5, 3 * 136), "D = 136"),
        (torch.zeros(1, 5, 3 * 16, dtype=torch.float64), "float64"),
        (torch.empty_strided((1, 2, 48), (0, 2**30, 1), device="meta"), "2^31"),
    ],
)
def test_a_required_kernel_refuses_what_it_does_not_support(qkv: Tensor, reason: str) -> None:
    with refuses(InputError, "kernel.unsupported", "masked_attention") as caught:
        masked_attention(qkv, None, 1)
    assert reason in caught.value.problem


def test_nan_in_the_bias_is_refused_where_values_are_checked() -> None:
    bias = torch.tensor([[0.0, float("nan")]])
    qkv = torch.zeros(1, 2, 48)
    masked_attention(qkv, bias, 1)
    with dispatch.using("on", checks=True), refuses(InputError, "input.not_finite", "key_bias"):
        masked_attention(qkv, bias, 1)


def test_every_supported_call_has_a_tile() -> None:
    for tokens, width, architecture in itertools.product(
        [1, 64, 65, 4096], range(16, 129, 8), [80, 86, 89, 90, 100, 103, 120]
    ):
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            for kernel in ("masked_attention", "masked_attention_varlen", "window_attention"):
                choose(kernel, tokens, width, dtype, architecture)
