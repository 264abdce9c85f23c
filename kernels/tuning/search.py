"""The search for each entry's fastest tile on a GPU: what models launch first, until time is up.

Every entry is searched in two rounds: tiles of many sizes in two stages, then the best of them in
one to four. The model prunes: what it takes for much slower than the best candidate
is not timed. The best few are timed again, in turns.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from triton.errors import TritonError

from medfocus.kernels.tile import Tile, TileKey
from medfocus.kernels.tuning import modelled
from medfocus.kernels.tuning.calls import calls
from medfocus.kernels.tuning.candidates import Outcome, Request
from medfocus.kernels.tuning.case import Case
from medfocus.kernels.tuning.cases import CASES
from medfocus.kernels.tuning.roofline import (
    CARDS,
    bound_seconds,
    modelled_seconds,
    roofline_seconds,
)

# More than the model chooses from.
BLOCKS = {
    16: [
        *modelled.BLOCKS[16],
        *((32, 128, 4), (64, 32, 8), (64, 64, 8), (64, 128, 8)),
        *((128, 32, 4), (128, 64, 4), (128, 128, 4), (256, 32, 8)),
    ],
    32: modelled.BLOCKS[32],
}
FIRST_STAGES, STAGES = 2, (1, 2, 3, 4)
# By how much the model may be wrong about one candidate compared with another: the L2 cache's
# bandwidth is a guess, and decides between tiles of 64 and of 256 rows.
SLACK = 2.5
FINALISTS, FINALS = 3, 3  # candidates whose other stages are tried; how often they are timed again
AHEAD = 8  # entries of which no launch is known, compiled at a time

# Seconds of a launch; infinity if its result is wrong.
Timer = Callable[[Case], float]


@dataclass(eq=False)
class Entry:
    """What is known of a table entry.

    Attributes:
        key: of the entry.
        before: its tile in the present table.
        known: whether a model is known to launch it.
        calls: launches per image of each case.
        seconds: of each case, by tile; 0 for those that have no calls.
        left_out: candidates that cannot be used, and why.
        best: the tile to use; None until candidates were timed.
    """

    key: TileKey
    before: Tile
    known: bool
    calls: Sequence[float]
    seconds: dict[Tile, list[float]] = field(default_factory=dict)
    left_out: dict[Tile, str] = field(default_factory=dict)
    best: Tile | None = None

    @property
    def launched(self) -> list[int]:
        """The numbers of the cases that have calls."""
        return [number for number, calls in enumerate(self.calls) if calls]

    def cases(self, tile: Tile) -> list[Case]:
        """The launches that represent the entry."""
        return CASES[self.key.kernel](self.key, tile)

    def mean(self, seconds: Sequence[float]) -> float:
        """Seconds of the cases -> seconds per launch."""
        return sum(n * s for n, s in zip(self.calls, seconds, strict=True)) / sum(self.calls)

    def fastest(self) -> list[Tile]:
        """The timed tiles, fastest first."""
        return sorted(self.seconds, key=lambda tile: self.mean(self.seconds[tile]))

    def gain(self) -> float:
        """Seconds per image above the roofline with the present tile; infinity if it fails."""
        if self.before not in self.seconds:
            return float("inf")
        cases, card = self.cases(self.before), CARDS[self.key.architecture]
        above = [
            (seconds - roofline_seconds(case.cost, card)) / case.shape["B"]
            for case, seconds in zip(cases, self.seconds[self.before], strict=True)
        ]
        return sum(n * s for n, s in zip(self.calls, above, strict=True))


def entry(key: TileKey, before: Tile) -> Entry:
    """An entry of which nothing has been timed."""
    return Entry(key, before, *calls(key, CASES[key.kernel](key, before)))


def search(
    entries: Sequence[Entry], request: Request, timer: Timer, expired: Callable[[], bool]
) -> Iterator[Entry]:
    """Fill in the entries; yields one after each of its rounds, and ends when time is up.

    Args:
        entries: in the order in which those of which no launch is known are searched.
        request: compiles candidates.
        timer: times a case.
        expired: whether time is up.
    """
    known = [entry for entry in entries if entry.known]
    rest = [entry for entry in entries if not entry.known]
    first = [(entry, request(entry.key, [entry.before], entry.launched)) for entry in known]
    for entry, outcomes in first:
        _explore(entry, outcomes(), timer, expired)
    known.sort(key=Entry.gain, reverse=True)
    for group in [known, *(rest[first : first + AHEAD] for first in range(0, len(rest), AHEAD))]:
        sizes = [(entry, request(entry.key, _sizes(entry), entry.launched)) for entry in group]
        stages = []
        for entry, outcomes in sizes:
            found = outcomes()
            if expired():
                return
            _explore(entry, found, timer, expired)
            entry.best = next(iter(entry.fastest()), None)
            yield entry
            stages.append((entry, request(entry.key, _stages(entry), range(len(entry.calls)))))
        for entry, outcomes in stages:
            found = outcomes()
            if expired():
                return
            _explore(entry, found, timer, expired)
            _settle(entry, [tile for tile in entry.fastest() if tile in found], timer, expired)
            yield entry


def _sizes(entry: Entry) -> list[Tile]:
    """The present tile and candidates of other sizes, without those whose size is too costly."""
    tiles = [Tile(*block, FIRST_STAGES) for block in BLOCKS[entry.key.bits]]
    tiles = [tile for tile in [entry.before, *tiles] if tile not in entry.seconds]
    card = CARDS[entry.key.architecture]
    bounds = {
        tile: entry.mean([bound_seconds(case.cost, card) for case in entry.cases(tile)])
        for tile in tiles
    }
    least = min(bounds.values())
    return [tile for tile in bounds if tile == entry.before or bounds[tile] <= SLACK * least]


def _stages(entry: Entry) -> list[Tile]:
    """The fastest tiles with every number of stages."""
    return list(
        dict.fromkeys(
            replace(tile, stages=n) for tile in entry.fastest()[:FINALISTS] for n in STAGES
        )
    )


def _explore(
    entry: Entry, outcomes: dict[Tile, Outcome], timer: Timer, expired: Callable[[], bool]
) -> None:
    """Time the compiled candidates, those that the model ranks highest first."""
    card = CARDS[entry.key.architecture]
    expected: dict[Tile, float] = {}
    for tile, outcome in outcomes.items():
        if isinstance(outcome, str):
            entry.left_out[tile] = outcome
            entry.seconds.pop(tile, None)  # a case that no known model launches may be the reason
            continue
        cases = entry.cases(tile)
        expected[tile] = sum(
            entry.calls[n] * modelled_seconds(cases[n].cost, compiled, tile.warps, card)
            for n, compiled in outcome.items()
        )
    for tile in sorted(expected, key=expected.__getitem__):
        if tile in entry.seconds or expired():
            continue
        if tile != entry.before and expected[tile] > SLACK * min(expected.values()):
            entry.left_out[tile] = "slow, by the model"
            continue
        found = _time(entry, tile, timer)
        if isinstance(found, str):
            entry.left_out[tile] = found
        else:
            entry.seconds[tile] = found


def _time(entry: Entry, tile: Tile, timer: Timer) -> list[float] | str:
    """Seconds of each case that has calls; or why the tile cannot be used."""
    cases = zip(entry.cases(tile), entry.calls, strict=True)
    try:
        seconds = [timer(case) if used else 0.0 for case, used in cases]
    except (RuntimeError, TritonError) as error:  # it needs more than the GPU has, say
        return type(error).__name__
    return "wrong result" if float("inf") in seconds else seconds


def _settle(entry: Entry, tiles: Sequence[Tile], timer: Timer, expired: Callable[[], bool]) -> None:
    """Time the first of the tiles and the present one again, in turns, and choose the best.

    In turns, since a GPU's clock changes while a search goes on.
    """
    finalists = [*tiles[:FINALISTS], entry.before]
    samples = {tile: [entry.seconds[tile]] for tile in finalists if tile in entry.seconds}
    for _ in range(FINALS):
        for tile, found in samples.items():
            again = "" if expired() else _time(entry, tile, timer)
            if not isinstance(again, str):
                found.append(again)
    for tile, found in samples.items():
        entry.seconds[tile] = [statistics.median(case) for case in zip(*found, strict=True)]
    entry.best = min(samples, key=lambda tile: entry.mean(entry.seconds[tile]), default=None)
