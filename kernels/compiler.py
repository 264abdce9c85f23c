"""Ahead-of-time compilation of a kernel for a GPU that need not be there, and what it came to."""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

# Tensor-core instructions: HMMA to Ampere and Ada, HGMMA on Hopper, UTCHMMA on Blackwell.
MATRIX_INSTRUCTIONS = ("HMMA", "HGMMA", "UTCHMMA")
# Loads and stores of local memory, where registers go that do not fit.
SPILL_INSTRUCTIONS = ("LDL", "STL")


@dataclass(frozen=True)
class Compiled:
    """What ptxas made of a kernel.

    Attributes:
        registers: a thread.
        spills: instructions that load or store local memory.
        stack_bytes: a thread.
        shared_bytes: a program.
        instructions: how often each stands in the machine code, by name without modifiers.
        products_off_tensor_cores: matrix products that became multiply-adds of single numbers.
    """

    registers: int
    spills: int
    stack_bytes: int
    shared_bytes: int
    instructions: Mapping[str, int]
    products_off_tensor_cores: int

    @property
    def mma(self) -> dict[str, int]:
        """Tensor-core instructions by name."""
        return {name: n for name, n in self.instructions.items() if name in MATRIX_INSTRUCTIONS}


def compile_for(
    architecture: int,
    function: Any,
    types: Mapping[str, str],
    constants: Mapping[str, object],
    warps: int,
    stages: int,
) -> Compiled:
    """Compile a kernel for a compute capability, and read its machine code.

    Args:
        architecture, function, types, constants, warps, stages: see `binary`.
    """
    made = binary(architecture, function, types, constants, warps, stages)
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
    """What Triton compiles a kernel to: `asm` by kind, "ptx" and "cubin" say, and `metadata`.

    Args:
        architecture: compute capability, 90 for 9.0.
        function: the `triton.jit` function.
        types: Triton's type of each argument that is no constant, `*bf16` or `i32` say. Pointers
            and strides (`stride` in the name, unless the kernel leaves them unspecialised) are
            taken to be multiples of 16, as they are for contiguous tensors.
        constants: the compile-time constants, `None` for an absent tensor among them.
        warps: of 32 threads.
        stages: for loops that name none.
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
    # "/*0a10*/  @P0 LDGSTS.E.BYPASS.128 [R1], ..." -> LDGSTS; MUFU.EX2 keeps its function
    names = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(MUFU\.\w+|[A-Z][A-Z0-9_]*)", code)
    return numbers, Counter(names)


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
