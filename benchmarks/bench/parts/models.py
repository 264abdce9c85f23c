"""The part `models`: both models, each and together, compared with the baselines."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from medfocus.benchmarks.baselines.engine_models import reference_models
from medfocus.benchmarks.baselines.implementations import BASELINES, Implementation
from medfocus.benchmarks.baselines.models import Models
from medfocus.benchmarks.bench.agreement import mask_iou, worst_cosine
from medfocus.benchmarks.bench.failures import first_line
from medfocus.benchmarks.bench.options import BenchOptions
from medfocus.benchmarks.bench.report.rows import BOTH as BOTH
from medfocus.benchmarks.bench.report.rows import BenchRow
from medfocus.benchmarks.bench.timing.clock import Ratio, ratio
from medfocus.benchmarks.bench.timing.cold_start import cold_start
from medfocus.benchmarks.bench.timing.interleaved import Timed, time_interleaved
from medfocus.benchmarks.bench.timing.roofline import (
    ModelCost,
    Roofline,
    measure_roofline,
    model_costs,
)
from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import NO_REGION
from medfocus.engine.runtime.graphs import Array
from medfocus.export.validate.images import phantoms

PART = "models"


class Workload(NamedTuple):
    """What is timed.

    Attributes:
        what: in words.
        run: from an implementation, images and the float32 models' focus logits to the answer.
        accuracy: of an answer, given the expected one; accuracy_of: which measure.
        models: which of segmenter and classifier it runs.
    """

    what: str
    run: Callable[[Models, Sequence[SourceImage], Array], Array]
    accuracy: Callable[[Array, Array], float]
    accuracy_of: str
    models: slice


def _segment(models: Models, images: Sequence[SourceImage], _: Array) -> Array:
    return models.segment(images)


def _classify(models: Models, images: Sequence[SourceImage], logits: Array) -> Array:
    return models.classify(images, logits)


def _both(models: Models, images: Sequence[SourceImage], _: Array) -> Array:
    return models.embed(images)


WORKLOADS = (
    Workload("segmenter", _segment, mask_iou, "IoU", slice(0, 1)),
    Workload("classifier", _classify, worst_cosine, "cosine", slice(1, 2)),
    Workload(BOTH, _both, worst_cosine, "cosine", slice(0, 2)),
)


@dataclass(frozen=True, eq=False)
class Loaded:
    """An implementation that is loaded and has answered.

    Attributes:
        implementation, models: what is loaded.
        peak_memory: MiB by batch size, of its own process.
    """

    implementation: Implementation
    models: Models
    peak_memory: dict[int, float]


def models_part(options: BenchOptions) -> Iterator[BenchRow]:
    """A row per workload, batch size and implementation; one per implementation that fails."""
    images = phantoms(max(options.batches))
    loaded: list[Loaded] = []
    for implementation in options.implementations:
        options.report(f"loading {implementation.title}")
        try:
            loaded.append(load(implementation, images, options.batches))
        except Exception as error:  # each runtime has its own classes, without a common base
            size, status = max(options.batches), first_line(error)
            yield options.row(PART, BOTH, implementation, size, status=status)
    reference = reference_models(options.engines[0])
    try:
        if loaded:
            options.report("measuring this machine's peak rates")
            roofline = measure_roofline(options.device)
            costs = list(model_costs(options.engines[0], images[0]))
            for batch in options.batches:
                for workload in WORKLOADS:
                    options.report(f"{workload.what}, batch {batch}")
                    least = partial(least_seconds, roofline, costs[workload.models], batch)
                    chosen = images[:batch]
                    yield from workload_rows(workload, loaded, reference, chosen, options, least)
    finally:
        for models in (reference, *(each.models for each in loaded)):
            models.close()


def load(
    implementation: Implementation, images: Sequence[SourceImage], batches: Sequence[int]
) -> Loaded:
    """Load an implementation, after a cold start with each batch size.

    Raises:
        MedfocusError: it cannot be loaded, or failed there; its runtime may raise other errors.
    """
    memory = {batch: cold_start(implementation, images[:batch]).peak_memory for batch in batches}
    models = implementation.load()
    models.embed(images[:1])  # lazy initialisation fails here
    return Loaded(implementation, models, memory)


def least_seconds(
    roofline: Roofline, costs: Sequence[ModelCost], batch: int, precision: str
) -> float | None:
    """The roofline's least time of some models for a batch; None if not known."""
    least = [roofline.least_seconds(cost, batch, precision) for cost in costs]
    return None if None in least else sum(filter(None, least))


def workload_rows(
    workload: Workload,
    loaded: Sequence[Loaded],
    reference: Models,
    images: Sequence[SourceImage],
    options: BenchOptions,
    least: Callable[[str], float | None],
) -> Iterator[BenchRow]:
    """A row per implementation; the ratios are to the first, and to every other baseline.

    The accuracy is compared with the float32 `reference`, without steering where an implementation
    has none; `least` gives the roofline's least seconds in a precision, if known.
    """
    logits = reference.segment(images)
    plain = reference.classify(images, 0 * logits + NO_REGION)
    expected = {True: reference.classify(images, logits), False: plain}
    runs: dict[Loaded, Callable[[], Array]] = {}
    answers = []
    for each in loaded:
        run = partial(workload.run, each.models, images, logits)
        try:
            answers.append(run())
        except Exception as error:  # with this workload or batch; of any class
            status = first_line(error)
            yield options.row(PART, workload.what, each.implementation, len(images), status=status)
        else:
            runs[each] = run
    if not runs:
        return
    names = {str(place): run for place, run in enumerate(runs.values())}
    results = time_interleaved(names, "0", options.seconds).values()
    timed = dict(zip((each.implementation for each in runs), results, strict=True))
    first = next(iter(timed))
    for each, answer in zip(runs, answers, strict=True):
        implementation = each.implementation
        found = timed[implementation]
        right = logits if workload.accuracy_of == "IoU" else expected[each.models.steered]
        ceiling = least(implementation.precision)
        yield options.row(
            PART,
            workload.what,
            implementation,
            len(images),
            **found.figures(len(images), "" if implementation is first else first.title),
            ratios=other_ratios(implementation, timed),
            peak_memory=each.peak_memory.get(len(images)) if workload.what == BOTH else None,
            roofline_share=None if ceiling is None else ceiling / found.median,
            accuracy=workload.accuracy(answer, right),
            accuracy_of=workload.accuracy_of,
        )


def other_ratios(
    implementation: Implementation, timed: Mapping[Implementation, Timed]
) -> dict[str, Ratio]:
    """Of an engine's images per second to each baseline's but the first, by the baseline's name."""
    if implementation.way in BASELINES:
        return {}
    own = timed[implementation].times
    _, *others = timed.items()
    return {
        baseline.title: ratio(found.times, own)
        for baseline, found in others
        if baseline.way in BASELINES
    }
