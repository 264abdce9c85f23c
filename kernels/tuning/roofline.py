"""How long a launch must take at least, and about how long it should, on a named card."""

import math
from dataclasses import dataclass, replace

from medfocus.kernels.compiler import Compiled

REGISTER_GRANULE = 8  # a thread's registers are allotted in eights
RESERVED_SHARED_BYTES = 1024  # the system's own, a program
# Single-number operations on a logit besides the exponential: scale and bias in one, maximum,
# shift, sum, and half of a conversion of two.
OPERATIONS_A_LOGIT = 4.5
# A program's first loads and last stores, when the memory is busy: a guess.
LATENCY = 1.5e-6
PRODUCTS_OF_FLOAT32 = 6  # bf16x6


@dataclass(frozen=True)
class Card:
    """A GPU, from its vendor's data sheet unless said otherwise.

    Attributes:
        architecture: compute capability, 90 for 9.0.
        multiprocessors: their number.
        clock: boost, in hertz.
        matrix_rate: dense bfloat16, FLOP/s.
        bandwidth: of device memory, bytes/s.
        l2_bandwidth: bytes/s; no data sheet has it, so this is a guess from others' measurements.
        shared_bytes: of a multiprocessor.
        shared_limit: of a program, bytes.
        warps: a multiprocessor holds at most.
        exponentials: a clock and multiprocessor.
        operations: in float32, a clock and multiprocessor.
        registers: of 32 bits, of a multiprocessor.
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
    # Matrix rate and bandwidth as measured on such a card, below the sheet's 989e12 and 4.8e12.
    90: Card("H200", 90, 132, 1.755e9, 790e12, 4.3e12, 5.5e12, 233472, 232448),
    100: Card("B200", 100, 148, 1.85e9, 2250e12, 7.7e12, 9.0e12, 233472, 232448),
}


@dataclass(frozen=True)
class LaunchCost:
    """What one launch does.

    Attributes:
        flop: useful, of the matrix products.
        computed_flop: with what the tiles compute beyond it.
        logits: computed; each costs an exponential.
        bytes: each input read once, each output written once.
        l2_bytes: with the programs' repeated reads.
        programs: of the launch.
        matrix_slowdown: products a product takes, 6 for float32.
    """

    flop: float
    computed_flop: float
    logits: float
    bytes: float
    l2_bytes: float
    programs: int
    matrix_slowdown: int = 1

    def computing(self, logits: float, columns: int) -> "LaunchCost":
        """The same work in tiles that compute so many logits, each over `columns` of a head."""
        return replace(self, logits=float(logits), computed_flop=4.0 * logits * columns)

    @property
    def tile_use(self) -> float:
        """The share of the computed products that is useful."""
        return self.flop / self.computed_flop if self.computed_flop else 1.0


def roofline_seconds(work: LaunchCost, card: Card) -> float:
    """The least time: memory or matrix products, nothing else, nothing wasted."""
    return max(
        work.bytes / card.bandwidth,
        work.flop * work.matrix_slowdown / card.matrix_rate,
    )


def programs_a_multiprocessor(compiled: Compiled, warps: int, card: Card) -> int:
    """How many programs fit on a multiprocessor together; 0 if not one does."""
    threads = 32 * warps
    registers = REGISTER_GRANULE * math.ceil(compiled.registers / REGISTER_GRANULE) * threads
    shared = compiled.shared_bytes + RESERVED_SHARED_BYTES
    if compiled.shared_bytes > card.shared_limit:
        return 0
    return min(card.registers // registers, card.shared_bytes // shared, card.warps // warps)


def occupancy(compiled: Compiled, warps: int, card: Card) -> float:
    """Resident warps over the most that a multiprocessor holds."""
    return programs_a_multiprocessor(compiled, warps, card) * warps / card.warps


def modelled_seconds(work: LaunchCost, compiled: Compiled, warps: int, card: Card) -> float:
    """A rough time: the busiest unit, or the programs one after another where too few overlap.

    Inside a group of four warps the products, the exponentials and the other operations of a
    tile wait for one another; a program's groups overlap, and so do the programs that share a
    multiprocessor. Each program also waits once for its first loads and its stores. The last
    wave of programs leaves multiprocessors idle. This ranks tiles; it predicts no measurement.
    """
    resident = programs_a_multiprocessor(compiled, warps, card)
    if not resident:
        return math.inf
    cycles = card.multiprocessors * card.clock
    units = (
        work.computed_flop * work.matrix_slowdown / card.matrix_rate,
        work.logits / (card.exponentials * cycles),
        OPERATIONS_A_LOGIT * work.logits / (card.operations * cycles),
    )
    slots = card.multiprocessors * resident
    waves = math.ceil(work.programs / slots)
    alone = max(*units, sum(units) / max(1.0, warps / 4))
    return max(
        work.bytes / card.bandwidth,
        work.l2_bytes / card.l2_bandwidth,
        max(units) * waves * slots / work.programs,
        waves * LATENCY + alone / resident,
    )
