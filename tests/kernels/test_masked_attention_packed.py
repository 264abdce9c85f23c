"""The kernel that takes three addresses: its output, and its PTX compiled ahead of time."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton

from medfocus.errors import InputError
from medfocus.kernels import dispatch
from medfocus.kernels.masked_attention import reference
from medfocus.kernels.masked_attention_packed import (
    compile_packed,
    constants,
    packed_kernel,
    without_scratch,
)
from medfocus.kernels.tile import choose
from tests.errors import refuses
from tests.kernels.accuracy import assert_as_accurate
from tests.kernels.conftest import DEVICE

ROOT = Path(__file__).parents[2]
# Triton compiles only outside its interpreter.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
COMPILE = """
import json, sys, torch
from dataclasses import asdict
from medfocus.kernels.masked_attention_packed import compile_packed
print(json.dumps([asdict(compile_packed(197, 12, 64, getattr(torch, dtype), architecture))
                  for architecture in (80, 90) for dtype in ("float16", "bfloat16", "float32")]))
"""


@pytest.mark.parametrize(
    ("images", "tokens", "heads", "width", "dtype"),
    [
        (1, 197, 2, 64, torch.float32),
        (3, 50, 3, 64, torch.float16),
        (2, 5, 1, 16, torch.float32),
        (2, 130, 2, 72, torch.float16),
    ],
)
def test_the_packed_kernel_equals_the_reference(
    images: int, tokens: int, heads: int, width: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(tokens)
    qkv = torch.randn(images, tokens, 3 * heads * width).to(DEVICE, dtype)
    key_bias = -3 * torch.rand(images, tokens).to(DEVICE)
    key_bias[:, 1:3] = float("-inf")
    out = torch.full_like(qkv[..., : heads * width], float("nan")).contiguous()
    tile = choose("masked_attention", tokens, width, dtype, 90)
    programs = images * heads * triton.cdiv(tokens, tile.block_m)
    packed_kernel[(programs,)](
        qkv,
        key_bias,
        out,
        **constants(tokens, heads, width, dtype, tile),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    scale = width**-0.5
    baseline = reference(qkv, key_bias, heads, scale)
    exact = reference(qkv.double(), key_bias.double(), heads, scale)
    assert_as_accurate(out, baseline, exact)


@pytest.fixture(scope="module")
def compiled() -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def parameters(ptx: str, name: str) -> list[str]:
    entry = re.search(rf"\.visible \.entry {name}\((.*?)\)", ptx, re.DOTALL)
    assert entry is not None
    return [line.strip().rstrip(",") for line in entry[1].splitlines() if line.strip()]


@pytest.mark.slow
def test_the_ptx_takes_only_three_addresses(compiled: list[dict[str, Any]]) -> None:
    assert len(compiled) == 6
    for kernel in compiled:
        found = parameters(kernel["ptx"], kernel["name"])
        assert [re.split(r"\s+", p)[1] for p in found] == [".u64"] * 3, found
        assert [p.split("_")[-1] for p in found] == ["0", "1", "2"]
        for number in range(3):
            assert f"[{kernel['name']}_param_{number}]" in kernel["ptx"], "it is read"
        assert f"{kernel['name']}_param_3" not in kernel["ptx"]
        assert kernel["threads"] % 32 == 0
        assert f".reqntid {kernel['threads']}" in kernel["ptx"]
        assert kernel["programs"] % 12 == 0


@pytest.mark.slow
def test_the_ptx_is_for_its_architecture_and_valid(
    compiled: list[dict[str, Any]], tmp_path: Path
) -> None:
    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    if not ptxas.exists():
        pytest.skip("this Triton does not include ptxas")
    for number, kernel in enumerate(compiled):
        target = re.search(r"\.target (sm_\w+)", kernel["ptx"])
        assert target is not None
        assert target[1].startswith("sm_80" if number < 3 else "sm_90")
        file = tmp_path / "kernel.ptx"
        file.write_text(kernel["ptx"])
        done = subprocess.run(
            [ptxas, f"-arch={target[1]}", file, "-o", tmp_path / "kernel.cubin"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_ptx_names_no_file_of_this_machine(compiled: list[dict[str, Any]]) -> None:
    for kernel in compiled:
        assert ".py" not in kernel["ptx"]
        assert str(ROOT) not in kernel["ptx"]


PTX = """
.visible .entry k(
\t.param .u64 k_param_0,
\t.param .u64 k_param_1,
\t.param .u64 k_param_2,
\t.param .u64 .ptr .global .align 1 k_param_3,
\t.param .u64 .ptr .global .align 1 k_param_4
)
{
\tld.param.b64 %rd1, [k_param_0];
}
"""


def metadata(global_scratch: int = 0, profile_scratch: int = 0) -> Any:
    return SimpleNamespace(global_scratch_size=global_scratch, profile_scratch_size=profile_scratch)


def test_only_hidden_parameters_are_removed() -> None:
    expected = PTX.replace(",\n\t.param .u64 .ptr .global .align 1 k_param_3", "").replace(
        ",\n\t.param .u64 .ptr .global .align 1 k_param_4", ""
    )
    assert without_scratch(PTX, "k", metadata()) == expected


@pytest.mark.parametrize(
    ("ptx", "sizes", "named"),
    [
        (PTX, metadata(16), "16 bytes of global"),
        (PTX, metadata(0, 8), "8 bytes of profiler"),
        (PTX.replace("[k_param_0]", "[k_param_4]"), metadata(), "k_param_4"),
        (PTX.replace(".param .u64 k_param_1,\n\t", ""), metadata(), "k_param_4"),
        (PTX.replace("entry k(", "entry other("), metadata(), "parameters"),
    ],
)
def test_a_kernel_with_other_parameters_is_refused(ptx: str, sizes: Any, named: str) -> None:
    with refuses(InputError, "kernel.unexpected_parameters", "k") as caught:
        without_scratch(ptx, "k", sizes)
    assert named in caught.value.problem


@pytest.mark.skipif(not dispatch.INTERPRETED, reason="Triton is not in its interpreter")
def test_the_interpreter_compiles_nothing() -> None:
    with refuses(InputError, "kernel.interpreter_active", "TRITON_INTERPRET"):
        compile_packed(197, 12, 64, torch.float16, 90)
