"""Attention on ragged batches, compared with the formula in float64, sequence by sequence.

Without a GPU the kernel runs in Triton's interpreter, on fewer shapes and without bfloat16.
"""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from medfocus.errors import InputError
from medfocus.kernels import dispatch
from medfocus.kernels.masked_attention_varlen import launch, masked_attention_varlen, reference
from medfocus.kernels.tile import Tile
from tests.errors import refuses
from tests.kernels.accuracy import assert_as_accurate

NAME = "masked_attention_varlen"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the whole sweep needs a GPU")
DTYPES = [torch.bfloat16] * torch.cuda.is_available() + [torch.float16, torch.float32]
BIASES = ["none", "keys", "heads", "-1e4", "-inf", "mixed", "first only", "nothing"]
LENGTHS = [1, 2, 17, 50, 65, 197]


def by_the_formula(
    qkv: Tensor,
    key_bias: Tensor | None,
    lengths: list[int],
    heads: int,
    scale: float | None = None,
) -> Tensor:
    """Sequence by sequence, head by head, weights written out; float64."""
    width = qkv.shape[1] // 3 // heads
    output = torch.zeros(len(qkv), heads * width, dtype=torch.float64, device=qkv.device)
    begin = 0
    for length, head in itertools.product(lengths, range(heads)):
        rows = slice(begin, begin + length)
        columns = slice(head * width, (head + 1) * width)
        q, k, v = (tensor[rows, columns] for tensor in qkv.double().chunk(3, -1))
        logits = q @ k.T * (width**-0.5 if scale is None else scale)
        if key_bias is not None:
            bias = key_bias if key_bias.ndim == 1 else key_bias[head]
            logits = logits + bias[rows].double()
        output[rows, columns] = torch.nan_to_num(logits.softmax(-1), nan=0.0) @ v
        begin += length if head == heads - 1 else 0
    return output


def tokens_of(tokens: int, heads: int, width: int, dtype: torch.dtype, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(tokens * 100 + width)
    return torch.randn(tokens, 3 * heads * width, generator=generator).to(device, dtype)


def offsets_of(lengths: list[int], device: str) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)


def bias_of(kind: str, lengths: list[int], heads: int, device: str) -> Tensor | None:
    tokens, infinite = sum(lengths), float("-inf")
    drawn = torch.rand(heads, tokens, generator=torch.Generator().manual_seed(tokens))
    first = torch.full((tokens,), infinite)
    first[[sum(lengths[:b]) for b, length in enumerate(lengths) if length]] = 0
    biases = {
        "none": None,
        "keys": -5 * drawn[0],
        "heads": -5 * drawn,
        "-1e4": torch.where(drawn[0] < 0.5, 0.0, -1e4),
        "-inf": torch.where(drawn[0] < 0.5, 0.0, infinite),
        "mixed": torch.where(drawn < 0.3, -1e4, torch.where(drawn < 0.6, infinite, -drawn)),
        "first only": first,
        "nothing": torch.full((tokens,), infinite),
    }
    bias = biases[kind]
    return None if bias is None else bias.to(device)


def check(
    lengths: list[int], heads: int, width: int, kind: str, dtype: torch.dtype, device: str
) -> None:
    qkv = tokens_of(sum(lengths), heads, width, dtype, device)
    bias, offsets = bias_of(kind, lengths, heads, device), offsets_of(lengths, device)
    with dispatch.using("require"):
        ours = masked_attention_varlen(qkv, bias, offsets, max(lengths), heads)
    assert dispatch.last_path(NAME) == "triton"
    # PyTorch's fused paths give NaN for a query without keys; its math path gives zeros, as ours.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        baseline = reference(qkv, bias, offsets, max(lengths), heads, width**-0.5)
    assert_as_accurate(ours, baseline, by_the_formula(qkv, bias, lengths, heads))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", BIASES)
def test_biases(kind: str, dtype: torch.dtype, device: str) -> None:
    """Different lengths in one batch, with empty sequences first, last and in between."""
    check([0, 1, 2, 17, 0, 0, 50, 65, 0], 3, 64, kind, dtype, device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", LENGTHS)
def test_a_single_sequence(length: int, dtype: torch.dtype, device: str) -> None:
    check([length], 2, 64, "keys", dtype, device)


@pytest.mark.parametrize(
    ("width", "dtype"),
    list(itertools.product([16, 32, 56, 72, 80, 96, 128], DTYPES)),
)
def test_widths(width: int, dtype: torch.dtype, device: str) -> None:
    check([33, 0, 67], 2, width, "heads", dtype, device)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("width", [32, 56, 64, 72, 80, 96, 128])
def test_the_whole_sweep(width: int, dtype: torch.dtype, device: str) -> None:
    """Heads in turns: not all at each shape, for several processes share the GPU."""
    for index, kind in enumerate(BIASES):
        heads = [1, 3, 12, 16][(width // 8 + index) % 4]
        for length in LENGTHS:
            check([length], heads, width, kind, dtype, device)
        check([*LENGTHS, 0, 577, 1025, 0, 3], heads, width, kind, dtype, device)


def test_a_sequence_does_not_depend_on_the_batch(device: str) -> None:
    """To the bit: the other sequences are not read."""
    lengths = [40, 7, 65]
    qkv = tokens_of(sum(lengths), 2, 32, torch.float32, device)
    with dispatch.using("require"):
        batched = masked_attention_varlen(qkv, None, offsets_of(lengths, device), 65, 2)
        single = masked_attention_varlen(qkv[40:47], None, offsets_of([7], device), 65, 2)
    assert torch.equal(batched[40:47], single)


@pytest.fixture(params=[(64, 64, 4), (128, 64, 8), (32, 16, 4)], ids=str)
def tile(request: pytest.FixtureRequest) -> Tile:
    rows, keys, warps = request.param
    return Tile(rows, keys, warps, stages=2)


POISON = 1e4


def poisoned(lengths: list[int], heads: int, width: int, device: str) -> tuple[Tensor, ...]:
    """qkv and bias surrounded by NaN, an output surrounded by poison, and that whole buffer."""
    tokens = sum(lengths)
    packed = torch.full((tokens + 400, 3 * heads * width + 16), float("nan"), device=device)
    qkv = packed[200:-200, 8:-8]
    qkv.copy_(tokens_of(tokens, heads, width, torch.float32, device))
    biases = torch.full((heads, tokens + 400), float("nan"), device=device)
    bias = biases[:, 200:-200]
    drawn = bias_of("heads", lengths, heads, device)
    assert drawn is not None
    bias.copy_(drawn)
    around = torch.full((tokens + 400, heads * width + 16), POISON, device=device)
    return qkv, bias, around[200:-200, 8:-8], around


@pytest.mark.parametrize("lengths", [[5], [0, 64, 0], [3, 130, 1, 65]])
def test_writes_its_output_and_nothing_else(lengths: list[int], tile: Tile, device: str) -> None:
    """Every element of the output and none around it, from strided rows surrounded by NaN."""
    heads, width = 2, 40
    qkv, bias, out, around = poisoned(lengths, heads, width, device)
    offsets = offsets_of(lengths, device)
    launch(qkv, bias, offsets, max(lengths), out, heads, width**-0.5, tile)
    baseline = reference(qkv, bias, offsets, max(lengths), heads, width**-0.5)
    assert_as_accurate(out, baseline, by_the_formula(qkv, bias, lengths, heads))
    out.fill_(POISON)
    assert (around == POISON).all()


INVALID = [
    [-50, 20, 70],
    [0, 20, 150],
    [0, 65, 20, 70],
    [70, 0],
    [60, 90, 10**9],
    [-(2**31), 2**31 - 1],
    [2**31 - 1, -(2**31), 2**31 - 1],
    [-9, -3, -1],
]


@pytest.mark.parametrize("offsets", INVALID, ids=str)
@pytest.mark.parametrize("max_seqlen", [1, 40, 10**9])
def test_invalid_offsets_stay_inside(offsets: list[int], max_seqlen: int, device: str) -> None:
    """Unchecked: the values written may be anything finite, but they lie within the output.

    A read outside the input would bring in NaN.
    """
    heads, width, tokens = 2, 16, 70
    qkv, bias, out, around = poisoned([tokens], heads, width, device)
    invalid = torch.tensor(offsets, dtype=torch.int32, device=device)
    launch(qkv, bias, invalid, max_seqlen, out, heads, width**-0.5, Tile(32, 16, 4, 2))
    assert out.isfinite().all()
    out.fill_(POISON)
    assert (around == POISON).all()


def test_a_longer_sequence_is_cut_at_max_seqlen(device: str) -> None:
    """Unchecked, `max_seqlen` is the limit of a launch: the first 40 tokens are the sequence."""
    qkv, bias, out, _ = poisoned([70], 2, 16, device)
    launch(qkv, bias, offsets_of([70], device), 40, out, 2, 0.25, Tile(32, 16, 4, 2))
    expected = by_the_formula(qkv[:40], bias[:, :40], [40], 2)
    baseline = reference(qkv[:40], bias[:, :40], offsets_of([40], device), 40, 2, 0.25)
    assert_as_accurate(out[:40], baseline, expected)
    assert (out[40:] == POISON).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_numbers_come_out_exactly(tile: Tile, dtype: torch.dtype, device: str) -> None:
    """Four keys of each sequence tie far above the others: the mean of their whole values."""
    lengths, width = [70, 4, 129], 72
    generator = torch.Generator().manual_seed(8)
    blocks, expected = [], []
    for length in lengths:
        chosen = torch.randperm(length, generator=generator)[:4]
        query, key = torch.randint(-2, 3, (2, width), generator=generator).float()
        query[0], key[0] = 16, 0
        keys = key.repeat(length, 1)
        keys[:, 0] = -64
        keys[chosen, 0] = 0
        values = torch.randint(-99, 100, (length, width), generator=generator).float() * 4
        blocks.append(torch.cat([query.expand(length, -1), keys, values], 1))
        expected.append(values[chosen].mean(0).expand(length, -1))
    qkv = torch.cat(blocks).to(device, dtype)
    out = torch.empty(len(qkv), width, dtype=dtype, device=device)
    launch(qkv, None, offsets_of(lengths, device), 129, out, 1, 1.0, tile)
    assert torch.equal(out.cpu().float(), torch.cat(expected))


@pytest.mark.parametrize("kind", BIASES)
def test_pytorchs_path_against_float64(kind: str) -> None:
    lengths = [0, 1, 17, 65, 0, 2]
    qkv = tokens_of(sum(lengths), 3, 24, torch.float32, "cpu")
    bias = bias_of(kind, lengths, 3, "cpu")
    with dispatch.using("off"):
        ours = masked_attention_varlen(qkv, bias, offsets_of(lengths, "cpu"), 65, 3)
    assert dispatch.last_path(NAME) == "torch"
    expected = by_the_formula(qkv, bias, lengths, 3)
    torch.testing.assert_close(ours.double(), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("mode", ["require", "off"])
def test_a_given_scale(mode: dispatch.Mode, device: str) -> None:
    lengths = [9, 20]
    qkv = tokens_of(29, 2, 16, torch.float32, device)
    with dispatch.using(mode):
        ours = masked_attention_varlen(qkv, None, offsets_of(lengths, device), 20, 2, 0.7)
    baseline = reference(qkv, None, offsets_of(lengths, device), 20, 2, 0.7)
    assert_as_accurate(ours, baseline, by_the_formula(qkv, None, lengths, 2, 0.7))


@pytest.mark.parametrize("mode", ["require", "off"])
@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
def test_nothing_but_empty_sequences(lengths: list[int], mode: dispatch.Mode, device: str) -> None:
    qkv = torch.zeros(0, 96, device=device)
    with dispatch.using(mode):
        output = masked_attention_varlen(qkv, None, offsets_of(lengths, device), 1, 2)
    assert output.shape == (0, 32)


def test_gradients_of_the_formula() -> None:
    qkv = tokens_of(6, 2, 8, torch.float64, "cpu").requires_grad_()
    bias = (-torch.rand(2, 6, dtype=torch.float64)).requires_grad_()
    offsets = offsets_of([2, 0, 4], "cpu")
    assert torch.autograd.gradcheck(
        lambda a, b: masked_attention_varlen(a, b, offsets, 4, 2), (qkv, bias)
    )


@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_gradients_of_the_kernel(wanted: tuple[bool, bool], device: str) -> None:
    """Equal to those of PyTorch's path, and computed only for inputs that need one."""
    lengths = [19, 0, 8]
    weights = torch.rand(27, 32, generator=torch.Generator().manual_seed(2)).to(device)
    found = []
    for mode in ("require", "off"):
        qkv = tokens_of(27, 2, 16, torch.float32, device).requires_grad_(wanted[0])
        bias = bias_of("heads", lengths, 2, device)
        assert bias is not None
        bias.requires_grad_(wanted[1])
        with dispatch.using(mode):
            output = masked_attention_varlen(qkv, bias, offsets_of(lengths, device), 19, 2)
        (output * weights).sum().backward()
        found.append([qkv.grad, bias.grad])
    for ours, expected in zip(*found, strict=True):
        if expected is None:
            assert ours is None
        else:
            torch.testing.assert_close(ours, expected)


def test_torch_can_trace_the_operator(device: str) -> None:
    qkv = tokens_of(9, 2, 16, torch.float32, device).requires_grad_()
    bias, offsets = -torch.rand(9, device=device), offsets_of([4, 5], device)
    operator = torch.ops.medfocus.masked_attention_varlen
    torch.library.opcheck(operator, (qkv.detach(), bias, offsets, 5, 2, 0.25))
    # Gradients read the offsets on the host, which cannot be traced; the other checks pass.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(operator, (qkv, bias, offsets, 5, 2, 0.25), test_utils=checks)


def refused() -> Iterator[tuple[str, Tensor, Tensor | None, Tensor, object, int]]:
    qkv, offsets = torch.zeros(5, 96), torch.tensor([0, 2, 5], dtype=torch.int32)
    for shape in [(6,), (3, 5), (1, 5, 1), (5, 2)]:
        yield "key_bias", qkv, torch.zeros(shape), offsets, 5, 2
    yield "key_bias", qkv, torch.zeros(5, dtype=torch.float16), offsets, 5, 2
    yield "key_bias", qkv, torch.zeros(5, device="meta"), offsets, 5, 2
    yield "qkv", qkv[:, :90], None, offsets, 5, 4
    yield "qkv", qkv[None], None, offsets, 5, 2
    yield "qkv", qkv.int(), None, offsets, 5, 2
    yield "qkv", torch.zeros(96, 5).T, None, offsets, 5, 2
    yield "num_heads", qkv, None, offsets, 5, 0
    yield "cu_seqlens", qkv, None, offsets.long(), 5, 2
    yield "cu_seqlens", qkv, None, offsets[None], 5, 2
    yield "cu_seqlens", qkv, None, offsets[:0], 5, 2
    yield "cu_seqlens", qkv, None, offsets.to("meta"), 5, 2
    for max_seqlen in [None, 0, -1, 5.0, torch.tensor(5)]:
        yield "max_seqlen", qkv, None, offsets, max_seqlen, 2


@pytest.mark.parametrize("mode", ["require", "off"])
@pytest.mark.parametrize(
    ("argument", "qkv", "bias", "offsets", "max_seqlen", "heads"), list(refused())
)
def test_arguments_that_do_not_fit(
    argument: str,
    qkv: Tensor,
    bias: Tensor | None,
    offsets: Tensor,
    max_seqlen: int,
    heads: int,
    mode: dispatch.Mode,
) -> None:
    with dispatch.using(mode), refuses(InputError, "input.invalid", argument):
        masked_attention_varlen(qkv, bias, offsets, max_seqlen, heads)


@pytest.mark.usefixtures("kernel_required")
@pytest.mark.parametrize(
    ("qkv", "reason"),
    [
        (torch.zeros(5, 3 * 20), "D = 20"),
        (torch.zeros(5, 3 * 16, dtype=torch.float64), "float64"),
        (torch.empty_strided((2, 48), (2**30, 1), device="meta"), "2^31"),
    ],
)
def test_a_required_kernel_refuses_what_it_does_not_support(qkv: Tensor, reason: str) -> None:
    offsets = torch.zeros(2, dtype=torch.int32, device=qkv.device)
    with refuses(InputError, "kernel.unsupported", NAME) as caught:
        masked_attention_varlen(qkv, None, offsets, 5, 1)
    assert reason in caught.value.problem


@pytest.mark.parametrize(
    ("offsets", "max_seqlen", "argument", "named"),
    [
        ([1, 5], 5, "cu_seqlens", "1"),
        ([0, 4, 2, 5], 5, "cu_seqlens", "descends"),
        ([0, 4], 5, "cu_seqlens", "T = 5"),
        ([0, 9], 9, "cu_seqlens", "9"),
        ([0, 1, 5], 3, "max_seqlen", "4 tokens"),
    ],
)
@pytest.mark.parametrize("mode", ["require", "off"])
def test_offsets_that_break_the_rules(
    offsets: list[int],
    max_seqlen: int,
    argument: str,
    named: str,
    mode: dispatch.Mode,
    device: str,
) -> None:
    """Refused where values are checked, and on PyTorch's path, which reads them anyway."""
    qkv = torch.zeros(5, 48, device=device)
    wrong = torch.tensor(offsets, dtype=torch.int32, device=device)
    with (
        dispatch.using(mode, checks=True),
        refuses(InputError, "input.invalid", argument) as caught,
    ):
        masked_attention_varlen(qkv, None, wrong, max_seqlen, 1)
    assert named in caught.value.problem
    if mode == "off":
        with dispatch.using(mode), refuses(InputError, "input.invalid", argument):
            masked_attention_varlen(qkv, None, wrong, max_seqlen, 1)
    else:
        with dispatch.using(mode):
            masked_attention_varlen(qkv, None, wrong, max_seqlen, 1)


def test_nan_in_the_bias_is_refused_where_values_are_checked(device: str) -> None:
    bias = torch.tensor([0.0, float("nan")], device=device)
    qkv, offsets = torch.zeros(2, 48, device=device), offsets_of([2], device)
    masked_attention_varlen(qkv, bias, offsets, 2, 1)
    with dispatch.using("on", checks=True), refuses(InputError, "input.not_finite", "key_bias"):
        masked_attention_varlen(qkv, bias, offsets, 2, 1)
