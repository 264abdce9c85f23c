"""The part `models`: both models, each alone and one after the other, beside their peers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from medfocus.benchmarks.baselines.engine_models import reference_models
from medfocus.benchmarks.baselines.implementations import Implementation, Models
from medfocus.benchmarks.bench.agreement import mask_iou, worst_cosine
from medfocus.benchmarks.bench.failures import first_line
from medfocus.benchmarks.bench.options import BenchOptions
from medfocus.benchmarks.bench.report.rows import BenchRow
from medfocus.benchmarks.bench.timing.cold_start import alone
from medfocus.benchmarks.bench.timing.interleaved import race
from medfocus.benchmarks.bench.timing.roofline import Roofline, measure_roofline
from medfocus.benchmarks.bench.timing.work import ModelCost, work_of
from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import NO_REGION
from medfocus.engine.runtime.graphs import Array
from medfocus.export.validate.images import phantoms

PART = "models"
BOTH = "both models"


class Job(NamedTuple):
    """What is timed.

    Attributes:
        what: in words.
        work: what a contender does with the images and the float32 models' focus logits.
        accuracy: of its answer, given what is expected of it; accuracy_of: its kind.
        models: which of segmenter and classifier it runs.
    """

    what: str
    work: Callable[[Models, Sequence[SourceImage], Array], Array]
    accuracy: Callable[[Array, Array], float]
    accuracy_of: str
    models: slice


JOBS = (
    Job(
        "segmenter",
        lambda models, images, _: models.segment(images),
        mask_iou,
        "IoU",
        slice(0, 1),
    ),
    Job(
        "classifier",
        lambda models, images, logits: models.classify(images, logits),
        worst_cosine,
        "cosine",
        slice(1, 2),
    ),
    Job(
        BOTH,
        lambda models, images, _: models.classify(images, models.segment(images)),
        worst_cosine,
        "cosine",
        slice(0, 2),
    ),
)


@dataclass(frozen=True, eq=False)
class Entrant:
    """A contender that is loaded and has answered.

    Attributes:
        contender, models: who.
        peak_memory: MiB by batch size, of a process of its own.
    """

    contender: Implementation
    models: Models
    peak_memory: dict[int, float]


def models_part(request: BenchOptions) -> Iterator[BenchRow]:
    """A row a contender, job and batch size; one for each contender that cannot take part."""
    images = phantoms(max(request.batches))
    entrants: list[Entrant] = []
    for contender in request.contenders:
        request.say(f"loading {contender.name}, {contender.precision}")
        try:
            entrants.append(enter(contender, images, request.batches))
        except Exception as error:  # each runtime has its own kinds, with no base in common
            row = _row(request, BOTH, contender, max(request.batches))
            yield replace(row, status=first_line(error))
    reference = reference_models(request.engines[0])
    try:
        if entrants:
            request.say("what this machine does at most")
            roofline = measure_roofline(request.device)
            work = list(work_of(request.engines[0], images[0]))
            for batch in request.batches:
                for job in JOBS:
                    request.say(f"{job.what}, batch {batch}")
                    least = partial(least_seconds, roofline, work[job.models], batch)
                    yield from job_rows(job, entrants, reference, images[:batch], request, least)
    finally:
        for models in (reference, *(entrant.models for entrant in entrants)):
            models.close()


def enter(
    contender: Implementation, images: Sequence[SourceImage], batches: Sequence[int]
) -> Entrant:
    """Load a contender, once it has answered each batch in a process of its own.

    Raises:
        MedfocusError: it cannot be loaded, or failed there; other errors are its runtime's own.
    """
    memory = {batch: alone(contender, images[:batch]).peak_memory for batch in batches}
    models = contender.load()
    models.classify(images[:1], models.segment(images[:1]))  # what is lazy fails here
    return Entrant(contender, models, memory)


def least_seconds(
    roofline: Roofline, work: Sequence[ModelCost], batch: int, precision: str
) -> float | None:
    """The least time of some models for a batch, weights read once; None if not known."""
    least = [
        roofline.least_seconds(batch * model.flop, model.bytes(precision), precision)
        for model in work
    ]
    return None if None in least else sum(filter(None, least))


def job_rows(
    job: Job,
    entrants: Sequence[Entrant],
    reference: Models,
    images: Sequence[SourceImage],
    request: BenchOptions,
    least: Callable[[str], float | None],
) -> Iterator[BenchRow]:
    """A row a contender; the ratios are against the first.

    Args:
        job: what is timed.
        entrants: who; whoever cannot steer is compared with the plain model.
        reference: in float32, what accuracy is measured against.
        images: one batch.
        request: for how long.
        least: the least seconds in a precision, if known.
    """
    logits = reference.segment(images)
    plain = reference.classify(images, 0 * logits + NO_REGION)
    expected = {True: reference.classify(images, logits), False: plain}
    runs: dict[Entrant, Callable[[], Array]] = {}
    answers = []
    for entrant in entrants:
        run = partial(job.work, entrant.models, images, logits)
        try:
            answers.append(run())
        except Exception as error:  # at this job or batch; its runtime's own kind
            row = _row(request, job.what, entrant.contender, len(images))
            yield replace(row, status=first_line(error))
        else:
            runs[entrant] = run
    if not runs:
        return
    timed = race({str(place): run for place, run in enumerate(runs.values())}, "0", request.seconds)
    peer = next(iter(runs)).contender
    for entrant, answer, found in zip(runs, answers, timed.values(), strict=True):
        contender = entrant.contender
        right = logits if job.accuracy_of == "IoU" else expected[entrant.models.steered]
        ceiling = least(contender.precision)
        named = "" if contender is peer else f"{peer.name}, {peer.precision}"
        yield replace(
            _row(request, job.what, contender, len(images)),
            **found.figures(len(images), named),
            peak_memory=entrant.peak_memory.get(len(images)) if job.what == BOTH else None,
            roofline_share=None if ceiling is None else ceiling / found.median,
            accuracy=job.accuracy(answer, right),
            accuracy_of=job.accuracy_of,
        )


def _row(request: BenchOptions, what: str, contender: Implementation, batch: int) -> BenchRow:
    return BenchRow(PART, what, contender.name, contender.precision, batch, "", request.environment)
