"""Ahead-of-time compilation of a kernel, without a GPU, and the resources it needs."""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TRITON_NAMES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.uint8: "u8",
}
# Tensor-core instructions: HMMA up to Ada, HGMMA on Hopper, UTCHMMA on Blackwell.
MATRIX_INSTRUCTIONS = ("HMMA", "HGMMA", "UTCHMMA")
# Loads from and stores to local memory, which holds the registers that do not fit.
SPILL_INSTRUCTIONS = ("LDL", "STL")


@dataclass(frozen=True)
class Compiled:
    """Resources and instructions of a compiled kernel.

    Attributes:
        registers: per thread.
        spills: instructions that load from or store to local memory.
        stack_bytes: per thread.
        shared_bytes: per program.
        instructions: how often each occurs in the machine code, by name without modifiers.
        products_off_tensor_cores: matrix products that became scalar multiply-adds.
    """

    registers: int
    spills: int
    stack_bytes: int
    shared_bytes: int
    instructions: Mapping[str, int]
    products_off_tensor_cores: int

    @property
    def mma(self) -> dict[str, int]:
        """Counts of the tensor-core instructions, by name."""
        return {name: n for name, n in self.instructions.items() if name in MATRIX_INSTRUCTIONS}


def compile_for(
    architecture: int,
    function: Any,
    types: Mapping[str, str],
    constants: Mapping[str, object],
    warps: int,
    stages: int,
) -> Compiled:
    """Compile a kernel for a compute capability and inspect its machine code.

    Args:
        architecture, function, types, constants, warps, stages: see `binary`.
    """
    return _inspect(binary(architecture, function, types, constants, warps, stages))


def compile_as_launched(
    function: Any,
    types: Mapping[str, str],
    constants: Mapping[str, object],
    warps: int,
    stages: int,
) -> Compiled:
    """Compile as a launch on Triton's device does, which then finds the result in Triton's cache.

    Args:
        function, types, constants, warps, stages: see `binary`.
    """
    values: dict[str, object] = {"i32": 16, "fp32": 1.0, "*i32": torch.int32, "*i1": torch.bool}
    values |= {f"*{name}": dtype for dtype, name in TRITON_NAMES.items()}
    arguments = [
        constants[name] if name in constants else values[types[name]] for name in function.arg_names
    ]
    return _inspect(function.warmup(*arguments, grid=(1,), num_warps=warps, num_stages=stages))


def _inspect(made: Any) -> Compiled:
    usage, instructions = _disassemble(made.asm["cubin"])
    return Compiled(
        registers=usage["REG"],
        spills=sum(instructions[name] for name in SPILL_INSTRUCTIONS),
        stack_bytes=usage["STACK"],
        shared_bytes=made.metadata.shared,
        instructions=instructions,
        products_off_tensor_cores=sum(
            "tt.dot " in line and "#mma" not in line for line in made.asm["ttgir"].splitlines()
        ),
    )


def binary(
    architecture: int,
    function: Any,
    types: Mapping[str, str],
    constants: Mapping[str, object],
    warps: int,
    stages: int,
) -> Any:
    """Compile a kernel: Triton's result, with `asm` by kind ("ptx", "cubin", …) and `metadata`.

    Args:
        architecture: compute capability, 90 for 9.0.
        function: the `triton.jit` function.
        types: Triton's type of each argument that is not a constant, such as `*bf16` or `i32`.
            Pointers and strides (`stride` in the name, unless the kernel does not specialise
            them) are taken to be multiples of 16, as they are for contiguous tensors.
        constants: the compile-time constants; `None` for an absent tensor.
        warps: warps per program.
        stages: pipeline stages of loops that do not set their own.
    """
    names = function.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    unspecialised = {p.name for p in function.params if p.do_not_specialize}
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if signature[name].startswith("*")
        or (signature[name] == "i32" and "stride" in name and name not in unspecialised)
    }
    source = ASTSource(function, signature, constexprs=dict(constants), attrs=aligned)
    return triton.compile(
        source,
        target=GPUTarget("cuda", architecture, 32),
        options={"num_warps": warps, "num_stages": stages},
    )


def _disassemble(cubin: bytes) -> tuple[dict[str, int], Counter[str]]:
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _run(tools / "cuobjdump", "-res-usage", file.name)
        code = _run(tools / "nvdisasm", "-c", file.name)
    numbers = {name: int(n) for name, n in re.findall(r"(REG|STACK):(\d+)", usage)}
    # "/*0a10*/  @P0 LDGSTS.E.BYPASS.128 [R1], ..." -> LDGSTS; MUFU.EX2 keeps its suffix
    names = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(MUFU\.\w+|[A-Z][A-Z0-9_]*)", code)
    return numbers, Counter(names)


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
