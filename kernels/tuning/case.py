"""A launch that represents a table entry: how it is compiled, what it costs, how it is run."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medfocus.kernels.attention_tiles import cut, tail
from medfocus.kernels.compiler import TRITON_NAMES, Compiled, compile_for
from medfocus.kernels.tile import Tile
from medfocus.kernels.tuning.roofline import CARDS, PRODUCTS_OF_FLOAT32, LaunchCost

DTYPES = {16: torch.bfloat16, 32: torch.float32}  # the dtype that represents a table's `bits`
# The matrix instruction of an architecture, for tiles of at least WIDE_ROWS rows.
WIDE_INSTRUCTION = {90: "HGMMA", 100: "UTCHMMA"}
WIDE_ROWS = 64


@dataclass(frozen=True)
class Launch:
    """A launch on inputs of its own.

    Attributes:
        run: launches once.
        answer: returns the last image's output, as written by the last run.
        reference: computes the last image's output with PyTorch, in the inputs' dtype, or in
            float64 for True.
    """

    run: Callable[[], None]
    answer: Callable[[], Tensor]
    reference: Callable[[bool], Tensor]

    def is_accurate(self) -> bool:
        """Run it; whether its error is at most twice that of PyTorch in the same dtype."""
        self.run()
        ours, exact = self.answer(), self.reference(True)
        limit = max(_error(self.reference(False), exact), _error(exact.to(ours.dtype), exact))
        return _error(ours, exact) <= 2 * limit  # False for NaN


def _error(values: Tensor, exact: Tensor) -> float:
    return float((values.double() - exact).norm())


def precise(exact: bool, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors, in float64 if `exact`; None for an absent one."""
    return tuple(t.double() if exact and t is not None else t for t in tensors)


@dataclass(frozen=True)
class Case:
    """One launch.

    Attributes:
        kernel: the function's name.
        shape: the sizes, by their letters.
        dtype: of the tokens.
        function: the `triton.jit` function.
        constants: its compile-time constants.
        tile: of the launch.
        cost: of the launch.
        prepare: takes a device and a number of images; None for a kernel that is not timed.
    """

    kernel: str
    shape: dict[str, int]
    dtype: torch.dtype
    function: Any
    constants: dict[str, object]
    tile: Tile
    cost: LaunchCost
    prepare: Callable[[str, int], Launch] | None = None

    @property
    def types(self) -> dict[str, str]:
        """Triton's types of the kernel's arguments, by their names."""
        return argument_types(self.function, self.dtype)

    def compile(self, architecture: int) -> Compiled:
        """Compile the launch for a compute capability, 90 for 9.0."""
        tile = self.tile
        return compile_for(
            architecture, self.function, self.types, self.constants, tile.warps, tile.stages
        )


def problems(case: Case, compiled: Compiled, architecture: int) -> Iterator[str]:
    """Why a launch should not be used on an architecture."""
    limit = CARDS[architecture].shared_limit
    if compiled.spills or compiled.stack_bytes:
        yield f"{compiled.spills} spills, {compiled.stack_bytes} bytes of stack"
    if compiled.shared_bytes > limit:
        yield f"{compiled.shared_bytes} bytes of shared memory, the limit is {limit}"
    if compiled.products_off_tensor_cores:
        yield f"{compiled.products_off_tensor_cores} matrix products off the tensor cores"
    if case.tile.block_m > 1 and not compiled.mma:
        yield "no tensor-core instruction"  # as an empty kernel would have
    wide = WIDE_INSTRUCTION.get(architecture)
    if wide and case.tile.block_m >= WIDE_ROWS and wide not in compiled.mma:
        yield f"tiles of {case.tile.block_m} rows without {wide}"
    # Where ptxas lets no two of them overlap, each begins and ends a group of its own.
    if 0 < 2 * compiled.mma.get("HGMMA", 0) <= compiled.instructions.get("WARPGROUP", 0):
        yield "matrix instructions that wait for one another"


def argument_types(function: Any, dtype: torch.dtype) -> dict[str, str]:
    """Triton's types of a kernel's arguments, by their names."""
    tokens = ("qkv", "q", "kv", "padding", "out", "mask_logits")
    types = dict.fromkeys(tokens, f"*{TRITON_NAMES[dtype]}")
    types |= dict.fromkeys(
        ("key_bias", "rows", "cols", "strength", "patch_focus"), f"*{TRITON_NAMES[torch.float32]}"
    )
    types |= {"cu_seqlens": "*i32", "focused": "*i1"}
    types |= {"pixels": "*u8", "taps": "*i32", "passes": "*i64", "levels": "*fp32"}
    types |= dict.fromkeys(("scale", "floor", "visible"), "fp32")
    return {name: types.get(name, "i32") for name in function.arg_names}


def attention_cost(
    heads: int, queries: int, keys: int, width: int, dtype: torch.dtype, tile: Tile
) -> LaunchCost:
    """The cost of attention in `heads` independent heads (images × heads).

    Two matrix products per head, 2·queries·keys·D FLOP each; a query row is read once, a head's
    keys and values once per tile of queries.
    """
    rows = queries // tile.block_m * tile.block_m + tail(queries, tile.block_m, dtype)
    computed_keys = keys // tile.block_n * tile.block_n + tail(keys, tile.block_n, dtype)
    tiles = math.ceil(queries / tile.block_m)
    row_bytes = heads * width * dtype.itemsize
    once = 2 * queries * row_bytes  # queries read, outputs written
    return LaunchCost(
        flop=4.0 * heads * queries * keys * width,
        computed_flop=4.0 * heads * rows * computed_keys * sum(cut(width, dtype)),
        logits=float(heads * rows * computed_keys),
        bytes=float(once + 2 * keys * row_bytes),
        l2_bytes=float(once + 2 * keys * row_bytes * tiles),
        programs=heads * tiles,
        matrix_slowdown=PRODUCTS_OF_FLOAT32 if dtype == torch.float32 else 1,
    )
