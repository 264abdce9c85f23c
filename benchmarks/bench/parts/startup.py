"""The part `startup`: a process of its own, from its start to its first answer."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from medfocus.benchmarks.baselines.engine_models import reference_models
from medfocus.benchmarks.baselines.implementations import Implementation
from medfocus.benchmarks.bench.agreement import worst_cosine
from medfocus.benchmarks.bench.options import BenchOptions
from medfocus.benchmarks.bench.report.rows import BenchRow
from medfocus.benchmarks.bench.timing.clock import quantile, ratio, turns
from medfocus.benchmarks.bench.timing.cold_start import Alone, alone
from medfocus.benchmarks.bench.timing.interleaved import ROUNDS
from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import NO_REGION
from medfocus.errors import MedfocusError
from medfocus.export.validate.images import phantoms

PART = "startup"
LOADING, FIRST = "until loaded", "first answer"


def startup_part(request: BenchOptions) -> Iterator[BenchRow]:
    """Two rows a contender: until it is loaded, and from there to its first image's answer."""
    images = phantoms(1)
    found: dict[Implementation, list[Alone]] = {}
    began = time.monotonic()
    for contender in request.contenders:
        request.say(f"starting {contender.name}, {contender.precision}")
        try:
            found[contender] = [alone(contender, images)]
        except MedfocusError as error:
            yield replace(_row(request, LOADING, contender), status=str(error))
    rounds = min(ROUNDS[1], int(request.seconds / (time.monotonic() - began)))
    if rounds:  # without the first, from files that may not have been in memory
        found = {contender: [] for contender in found}
    places = {str(place): contender for place, contender in enumerate(found)}
    for order in turns(list(places), rounds):
        for place in order:
            contender = places[place]
            if contender not in found:
                continue
            request.say(f"starting {contender.name}, {contender.precision}")
            try:
                found[contender].append(alone(contender, images))
            except MedfocusError as error:
                del found[contender]
                yield replace(_row(request, LOADING, contender), status=str(error))
    if found:
        yield from _rows(request, found, images)


def _rows(
    request: BenchOptions, found: dict[Implementation, list[Alone]], images: Sequence[SourceImage]
) -> Iterator[BenchRow]:
    reference = reference_models(request.engines[0])
    logits = reference.segment(images)
    steered = reference.classify(images, logits)
    plain = reference.classify(images, 0 * logits + NO_REGION)
    reference.close()
    peer = next(iter(found))
    for what in (LOADING, FIRST):
        times = {
            who: [_seconds(each, what) for each in each_run] for who, each_run in found.items()
        }
        for contender, seconds in times.items():
            row = replace(
                _row(request, what, contender),
                rounds=len(seconds),
                p50_ms=1e3 * quantile(seconds, 0.5),
                p95_ms=1e3 * quantile(seconds, 0.95) if len(seconds) >= ROUNDS[0] else None,
                times_ms=tuple(1e3 * each for each in seconds),
            )
            if contender != peer and len(seconds) >= ROUNDS[0]:
                row = replace(
                    row,
                    peer=f"{peer.name}, {peer.precision}",
                    ratio=ratio(times[peer], seconds),
                )
            if what == FIRST:
                first = found[contender][0]
                right = steered if first.steered else plain
                row = replace(
                    row,
                    peak_memory=quantile([each.peak_memory for each in found[contender]], 0.5),
                    accuracy=worst_cosine(first.embedding, right),
                    accuracy_of="cosine",
                )
            yield row


def _seconds(run: Alone, what: str) -> float:
    return run.loaded if what == LOADING else run.answered


def _row(request: BenchOptions, what: str, contender: Implementation) -> BenchRow:
    return BenchRow(PART, what, contender.name, contender.precision, 1, "", request.environment)
