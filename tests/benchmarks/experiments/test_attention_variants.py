"""Every variant of masked_attention is right, and compiles for Hopper without spills."""

import json
import os
import subprocess
import sys

import pytest
import torch

from medfocus.benchmarks.baselines.attention import exact_attention, masked_inputs
from medfocus.benchmarks.experiments.kernels.variants import HEAD_TILES, SHAPES, variants
from medfocus.kernels.masked_attention import reference
from tests.kernels.accuracy import assert_as_accurate

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
CODE = """
import dataclasses, json, sys
from medfocus.benchmarks.experiments.kernels.variants import SHAPES, variants
for _, heads, tokens, width in SHAPES:
    for name, variant in variants(tokens).items():
        made = variant.compiled(tokens, heads, width, 90)
        print(json.dumps([name, tokens, made.registers, made.spills, made.mma]))
"""
NEW = [(n, name) for n in HEAD_TILES for name in variants(n) if not name.startswith("current")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("tokens", "name"), NEW)
def test_a_variant_is_as_accurate_as_pytorch(tokens: int, name: str, dtype: torch.dtype) -> None:
    qkv, bias = masked_inputs(2, 2, tokens, 64, dtype, "cpu")
    bias[0, [0, 3, -1]] = -float("inf")
    bias[1] = -float("inf")  # no key at all
    out = torch.full((2, tokens, 128), float("nan"), dtype=dtype)
    variants(tokens)[name].launch(qkv, bias, out, 2)
    exact = exact_attention(qkv[:1], bias[:1], 2)
    assert_as_accurate(out[:1], reference(qkv[:1], bias[:1], 2, 64**-0.5), exact)
    assert not out[1].any()


@pytest.mark.long
def test_variants_compile_for_hopper_without_spills() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == sum(len(variants(shape[2])) for shape in SHAPES)
    for name, tokens, registers, spills, mma in rows:
        assert spills == 0, (name, tokens, registers)
        assert "HGMMA" in mma, (name, tokens)
