"""The part `startup`: cold starts, from the start of a process to its first answer."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from medfocus.benchmarks.baselines.engine_models import reference_models
from medfocus.benchmarks.baselines.implementations import Implementation
from medfocus.benchmarks.bench.agreement import worst_cosine
from medfocus.benchmarks.bench.options import BenchOptions
from medfocus.benchmarks.bench.report.rows import BenchRow
from medfocus.benchmarks.bench.timing.clock import ratio, shuffled_rounds
from medfocus.benchmarks.bench.timing.cold_start import ColdStart, cold_start
from medfocus.benchmarks.bench.timing.interleaved import ROUNDS
from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import NO_REGION
from medfocus.errors import MedfocusError
from medfocus.export.validate.images import phantoms

PART = "startup"
LOADING, FIRST = "until loaded", "first answer"


def startup_part(options: BenchOptions) -> Iterator[BenchRow]:
    """Two rows per implementation: until it is loaded, and from there to its first answer."""
    images = phantoms(1)
    found: dict[Implementation, list[ColdStart]] = {}
    began = time.monotonic()

    def start(implementation: Implementation) -> Iterator[BenchRow]:
        options.report(f"starting {implementation.title}")
        try:
            found.setdefault(implementation, []).append(cold_start(implementation, images))
        except MedfocusError as error:
            del found[implementation]
            yield options.row(PART, LOADING, implementation, 1, status=str(error))

    for implementation in options.implementations:
        yield from start(implementation)
    rounds = min(ROUNDS[1], int(options.seconds / (time.monotonic() - began)))
    if rounds:  # without the first, which may read files that are not in the page cache
        found = {implementation: [] for implementation in found}
    places = {str(place): implementation for place, implementation in enumerate(found)}
    for order in shuffled_rounds(list(places), rounds):
        for place in order:
            if places[place] in found:
                yield from start(places[place])
    if found:
        yield from _rows(options, found, images)


def _rows(
    options: BenchOptions,
    found: dict[Implementation, list[ColdStart]],
    images: Sequence[SourceImage],
) -> Iterator[BenchRow]:
    reference = reference_models(options.engines[0])
    logits = reference.segment(images)
    expected = {
        True: reference.classify(images, logits),
        False: reference.classify(images, 0 * logits + NO_REGION),
    }
    reference.close()
    first = next(iter(found))
    for what in (LOADING, FIRST):
        times = {
            implementation: [each.loaded if what == LOADING else each.answered for each in starts]
            for implementation, starts in found.items()
        }
        for implementation, seconds in times.items():
            enough = len(seconds) >= ROUNDS[0]
            row = options.row(
                PART,
                what,
                implementation,
                1,
                rounds=len(seconds),
                p50_ms=1e3 * float(np.median(seconds)),
                p95_ms=1e3 * float(np.quantile(seconds, 0.95)) if enough else None,
                times_ms=tuple(1e3 * each for each in seconds),
            )
            if implementation != first and enough:
                compared = ratio(times[first], seconds)
                row = replace(row, baseline=first.title, ratio=compared)
            if what == FIRST:
                starts = found[implementation]
                right = expected[starts[0].steered]
                row = replace(
                    row,
                    peak_memory=float(np.median([each.peak_memory for each in starts])),
                    accuracy=worst_cosine(starts[0].embedding, right),
                    accuracy_of="cosine",
                )
            yield row
