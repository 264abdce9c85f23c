"""Every variant of the attention kernels is right, and the new ones compile for Hopper."""

import json
import os
import subprocess
import sys

import pytest
import torch

from medfocus.benchmarks.baselines.attention import Comparison, masked_inputs
from medfocus.benchmarks.baselines.encoder_blocks import window_inputs
from medfocus.benchmarks.gpu.variants.candidates import SHAPES, variants
from medfocus.benchmarks.gpu.variants.comparisons import VARIANT, attention, windowed, windows
from medfocus.benchmarks.gpu.variants.measure import main
from medfocus.errors import DeviceError
from medfocus.kernels.masked_attention import reference
from tests.errors import refuses
from tests.kernels.accuracy import assert_as_accurate

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
CODE = """
import json
from medfocus.benchmarks.gpu.variants.candidates import SHAPES, variants
for _, heads, tokens, width in SHAPES:
    for name, variant in variants(tokens).items():
        made = variant.compiled(tokens, heads, width, 90)
        counts = [made.instructions[kind] for kind in ("HGMMA", "WARPGROUP")]
        print(json.dumps([name, tokens, made.spills, *counts]))
"""
WHOLE = f"{VARIANT}whole heads"
NEW = [name for name in variants(197) if not name.startswith("current")]


def answers(comparison: Comparison, kept: str = VARIANT) -> list[torch.Tensor]:
    built = [each for each in comparison.implementations if each.name.startswith(kept)]
    assert len(built) > 2
    return [each.build()() for each in built]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("tokens", [197, 257, 577])
def test_variants_are_as_accurate_as_pytorch(tokens: int, dtype: torch.dtype) -> None:
    comparison = attention(1, 1, tokens, 64, dtype, "cpu")
    qkv, bias = masked_inputs(1, 1, tokens, 64, dtype, "cpu")
    baseline, exact = reference(qkv, bias, 1, 64**-0.5), comparison.exact()
    # The built-in kernel's tiles have tests of their own.
    kept = VARIANT if tokens == 197 else f"{VARIANT}streamed" if tokens == 577 else WHOLE
    for answer in answers(comparison, kept):
        assert_as_accurate(answer, baseline, exact)


@pytest.mark.parametrize("name", NEW)
def test_hidden_keys_have_no_weight(name: str) -> None:
    qkv, bias = masked_inputs(2, 1, 197, 64, torch.float32, "cpu")
    bias[0, [0, 3, 196]] = -float("inf")
    bias[1] = -float("inf")  # no key at all
    out = torch.full((2, 197, 64), float("nan"))
    variants(197)[name].launch(qkv, bias, out, 1)
    kept = [n for n in range(197) if bias[0, n] > -float("inf")]
    q, k, v = qkv[0].double().split(64, -1)
    exact = (q @ k[kept].T / 8 + bias[0, kept].double()).softmax(-1) @ v[kept]
    torch.testing.assert_close(out[0].double(), exact, rtol=1e-5, atol=1e-5)
    assert not out[1].any()


@pytest.mark.parametrize("pool", [False, True])
def test_window_variants_are_as_accurate_as_pytorch(pool: bool) -> None:
    comparison = windows(1, "", 10, 32, 2, 4, pool, torch.float32, "cpu")
    qkv, padding = window_inputs(1, 10, 32, torch.float32, "cpu")
    baseline, exact = windowed.reference(qkv, padding, 2, 4, pool), comparison.exact()
    for answer in answers(comparison):
        assert_as_accurate(answer, baseline, exact)


@pytest.mark.skipif(torch.cuda.is_available(), reason="measures where there is a GPU")
def test_nothing_is_measured_without_a_gpu(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(sys, "argv", ["attention_variants", str(tmp_path / "out.json")])
    with refuses(DeviceError, "device.unavailable"):
        main()
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_variants_compile_for_hopper_without_spills_and_overlap() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == sum(len(variants(shape[2])) for shape in SHAPES)
    for name, tokens, spills, products, waits in rows:
        assert spills == 0, (name, tokens)
        # Where ptxas lets no two matrix instructions overlap, each has two of the others.
        assert products > waits > 0, (name, tokens)
