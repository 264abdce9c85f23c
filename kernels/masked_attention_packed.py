"""`masked_attention` compiled ahead of time, with three pointers as its only arguments.

For runtimes that launch a kernel themselves: all tensors are dense, so every size and stride is
known at compile time except the batch, which only sets the number of programs.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from medfocus.errors import InputError
from medfocus.kernels import compiler, dispatch
from medfocus.kernels.masked_attention import NAME, specialise
from medfocus.kernels.masked_attention import kernel as strided_kernel
from medfocus.kernels.tile import Tile, choose

SCRATCH_PARAMETERS = 2  # Triton adds them to every kernel: global and profiler scratch memory


@dataclass(frozen=True)
class Kernel:
    """A kernel whose only arguments are the addresses of qkv, key_bias and out.

    Attributes:
        name: of the entry in `ptx`.
        ptx: for one architecture.
        threads: per program.
        shared_bytes: per program.
        programs: per image.
    """

    name: str
    ptx: str
    threads: int
    shared_bytes: int
    programs: int


def compile_packed(
    tokens: int, num_heads: int, width: int, dtype: torch.dtype, architecture: int
) -> Kernel:
    """Compile for qkv (B, N, 3·H·D), key_bias (B, N) float32 and out (B, N, H·D), all dense.

    Args:
        tokens, num_heads, width: N, H and D.
        dtype: of qkv and out.
        architecture: compute capability, 90 for 9.0.

    Raises:
        InputError: Triton's interpreter is on, which compiles nothing
            (`kernel.interpreter_active`), or this Triton version gives the kernel other
            parameters (`kernel.unexpected_parameters`).
    """
    tile = choose(NAME, tokens, width, dtype, architecture)
    pointer = f"*{compiler.TRITON_NAMES[dtype]}"
    types = {"qkv": pointer, "out": pointer, "key_bias": "*fp32"}
    fixed = constants(tokens, num_heads, width, dtype, tile)
    if dispatch.INTERPRETED:
        raise InputError(
            "TRITON_INTERPRET",
            "is set, so nothing can be compiled",
            "unset TRITON_INTERPRET",
            code="kernel.interpreter_active",
        )
    with triton.knobs.compilation.scope():
        # The PTX is stored in a plan, which must not contain paths of this machine.
        triton.knobs.compilation.disable_line_info = True
        made = compiler.binary(architecture, packed_kernel, types, fixed, tile.warps, tile.stages)
    name = made.metadata.name
    return Kernel(
        name=name,
        ptx=without_scratch(made.asm["ptx"], name, made.metadata),
        threads=32 * made.metadata.num_warps,
        shared_bytes=made.metadata.shared,
        programs=num_heads * triton.cdiv(tokens, tile.block_m),
    )


def constants(
    tokens: int, num_heads: int, width: int, dtype: torch.dtype, tile: Tile
) -> dict[str, object]:
    """The kernel's compile-time constants."""
    return {
        "TOKENS": tokens,
        "HEADS": num_heads,
        "SCALE": width**-0.5,
        **specialise(tokens, width, dtype, tile),
    }


def without_scratch(ptx: str, name: str, metadata: Any) -> str:
    """Remove the entry's parameters that Triton adds and this kernel never reads.

    Triton's own launcher passes them; another launcher does not, and the driver would then read
    past the end of the arguments.

    Raises:
        InputError: the kernel reads them, or its parameters are not those expected
            (`kernel.unexpected_parameters`).
    """

    def unexpected(problem: str) -> InputError:
        hint = "use another version of Triton, or native attention"
        return InputError(name, problem, hint, code="kernel.unexpected_parameters")

    used = {"global": metadata.global_scratch_size, "profiler": metadata.profile_scratch_size}
    for kind, size in used.items():
        if size:
            raise unexpected(f"needs {size} bytes of {kind} scratch memory")
    entry = re.compile(rf"(\.entry {re.escape(name)}\()(.*?)(\n\))", re.DOTALL)
    match = entry.search(ptx)
    parameters = re.findall(r"\n\s*\.param [^\n]*?(\w+),?(?=\n|$)", match[2]) if match else []
    hidden = parameters[3:]
    if len(hidden) != SCRATCH_PARAMETERS or any(
        len(re.findall(rf"\b{p}\b", ptx)) > 1 for p in hidden
    ):
        raise unexpected(f"has the parameters {', '.join(parameters)}")
    assert match is not None
    kept = match[2][: match[2].index(hidden[0])].rsplit(",", 1)[0]
    return ptx[: match.start()] + match[1] + kept + match[3] + ptx[match.end() :]


@triton.jit
def packed_kernel(
    qkv, key_bias, out,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, SCALE: tl.constexpr,
    D: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
    BLOCK_M: tl.constexpr, TAIL_M: tl.constexpr,
    BLOCK_N: tl.constexpr, TAIL_N: tl.constexpr,
    STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`masked_attention.kernel` with the strides of dense tensors."""
    WIDTH: tl.constexpr = HEADS * D
    strided_kernel(
        qkv, key_bias, out, TOKENS, HEADS, SCALE,
        3 * TOKENS * WIDTH, 3 * WIDTH, TOKENS, 0, TOKENS * WIDTH, WIDTH,
        D, MAIN, REST, BLOCK_M, TAIL_M, BLOCK_N, TAIL_N, STAGES, PRECISION,
    )  # fmt: skip
