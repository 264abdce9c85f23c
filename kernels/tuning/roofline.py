"""The roofline time of a launch on a named card, and a rough model of its actual time."""

import math
from dataclasses import dataclass, replace

from medfocus.kernels.compiler import Compiled

REGISTER_GRANULE = 8  # registers are allocated per thread in units of eight
RESERVED_SHARED_BYTES = 1024  # reserved by the system, per program
# Scalar operations per logit besides the exponential: scale and bias in one, maximum, shift, sum,
# and half of a conversion of two.
OPERATIONS_PER_LOGIT = 4.5
# A program's first loads and last stores on a busy memory, in seconds: an estimate.
LATENCY = 1.5e-6
PRODUCTS_OF_FLOAT32 = 6  # bf16x6


@dataclass(frozen=True)
class Card:
    """A GPU, from its vendor's data sheet unless stated otherwise.

    Attributes:
        architecture: compute capability, 90 for 9.0.
        multiprocessors: number of multiprocessors.
        clock: boost clock, Hz.
        matrix_rate: dense bfloat16, FLOP/s.
        bandwidth: of device memory, bytes/s.
        l2_bandwidth: bytes/s; estimated from published measurements, as no data sheet gives it.
        shared_bytes: shared memory per multiprocessor.
        shared_limit: shared memory that one program may use, bytes.
        warps: maximum per multiprocessor.
        exponentials: per clock and multiprocessor.
        operations: in float32, per clock and multiprocessor.
        registers: of 32 bits, per multiprocessor.
    """

    name: str
    architecture: int
    multiprocessors: int
    clock: float
    matrix_rate: float
    bandwidth: float
    l2_bandwidth: float
    shared_bytes: int
    shared_limit: int
    warps: int = 64
    exponentials: int = 16
    operations: int = 128
    registers: int = 65536


CARDS = {
    80: Card("A100 80GB", 80, 108, 1.41e9, 312e12, 2.04e12, 4.0e12, 167936, 166912, operations=64),
    89: Card("L40S", 89, 142, 2.52e9, 362e12, 0.86e12, 4.0e12, 102400, 101376, warps=48),
    # Matrix rate and bandwidth as measured; the data sheet gives 989e12 and 4.8e12.
    90: Card("H200", 90, 132, 1.755e9, 790e12, 4.3e12, 5.5e12, 233472, 232448),
    100: Card("B200", 100, 148, 1.85e9, 2250e12, 7.7e12, 9.0e12, 233472, 232448),
    120: Card(
        "RTX PRO 6000", 120, 188, 2.617e9, 503.8e12, 1.79e12, 5.5e12, 102400, 101376, warps=48
    ),
}


@dataclass(frozen=True)
class LaunchCost:
    """The cost of one launch.

    Attributes:
        flop: of the matrix products, without what tiles compute in excess.
        computed_flop: of the matrix products, including that excess.
        logits: computed logits; each needs an exponential.
        bytes: each input read once, each output written once.
        l2_bytes: including the repeated reads of different programs.
        programs: number of programs.
        matrix_slowdown: tensor-core products per matrix product: 6 for float32.
    """

    flop: float
    computed_flop: float
    logits: float
    bytes: float
    l2_bytes: float
    programs: int
    matrix_slowdown: int = 1

    def computing(self, logits: float, columns: int) -> "LaunchCost":
        """The same launch in tiles that compute `logits` logits, each over `columns` columns."""
        return replace(self, logits=float(logits), computed_flop=4.0 * logits * columns)

    @property
    def tile_use(self) -> float:
        """The useful share of the computed products."""
        return self.flop / self.computed_flop if self.computed_flop else 1.0


def roofline_seconds(cost: LaunchCost, card: Card) -> float:
    """The lower bound: the larger of memory time and matrix-product time, both without excess."""
    return max(
        cost.bytes / card.bandwidth,
        cost.flop * cost.matrix_slowdown / card.matrix_rate,
    )


def programs_per_multiprocessor(compiled: Compiled, warps: int, card: Card) -> int:
    """How many programs fit on a multiprocessor at the same time; 0 if not even one does."""
    threads = 32 * warps
    registers = REGISTER_GRANULE * math.ceil(compiled.registers / REGISTER_GRANULE) * threads
    shared = compiled.shared_bytes + RESERVED_SHARED_BYTES
    if compiled.shared_bytes > card.shared_limit:
        return 0
    return min(card.registers // registers, card.shared_bytes // shared, card.warps // warps)


def occupancy(compiled: Compiled, warps: int, card: Card) -> float:
    """Resident warps as a share of the multiprocessor's maximum."""
    return programs_per_multiprocessor(compiled, warps, card) * warps / card.warps


def bound_seconds(cost: LaunchCost, card: Card) -> float:
    """The time of the busiest unit in tiles of a size, however they are compiled."""
    return max(cost.bytes / card.bandwidth, cost.l2_bytes / card.l2_bandwidth, *_units(cost, card))


def _units(cost: LaunchCost, card: Card) -> tuple[float, float, float]:
    """Seconds of the tensor cores, of the exponentials and of the other arithmetic."""
    cycles = card.multiprocessors * card.clock
    return (
        cost.computed_flop * cost.matrix_slowdown / card.matrix_rate,
        cost.logits / (card.exponentials * cycles),
        OPERATIONS_PER_LOGIT * cost.logits / (card.operations * cycles),
    )


def modelled_seconds(cost: LaunchCost, compiled: Compiled, warps: int, card: Card) -> float:
    """A rough time: that of the busiest unit, or of programs in sequence where too few overlap.

    Within a group of four warps, the products, the exponentials and the other operations of a
    tile run one after another; a program's groups overlap, and so do the programs that share a
    multiprocessor. Each program also waits once for its first loads and its last stores. The last
    wave of programs leaves multiprocessors idle. The model ranks tiles; it does not predict times.
    """
    resident = programs_per_multiprocessor(compiled, warps, card)
    if not resident:
        return math.inf
    units = _units(cost, card)
    concurrent = card.multiprocessors * resident
    waves = math.ceil(cost.programs / concurrent)
    in_sequence = max(*units, sum(units) / max(1.0, warps / 4))
    return max(
        bound_seconds(cost, card),
        max(units) * waves * concurrent / cost.programs,
        waves * LATENCY + in_sequence / resident,
    )
