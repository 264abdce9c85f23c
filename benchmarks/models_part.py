"""The part `models`: both models, each alone and one after the other, beside their peers."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from medfocus.benchmarks.agreement import mask_iou, worst_cosine
from medfocus.benchmarks.environment import Environment
from medfocus.benchmarks.model_contenders import Models
from medfocus.benchmarks.race import Timed, race
from medfocus.benchmarks.rows import Row
from medfocus.engine.backends import Array
from medfocus.engine.images import SourceImage
from medfocus.engine.prepare import NO_REGION

PART = "models"
BOTH = "both models"


class Job(NamedTuple):
    """What is timed.

    Attributes:
        what: in words.
        work: what a contender does with the images and the float32 models' focus logits.
        accuracy: of its answer, given the contender and what is expected of it.
        accuracy_of: its kind.
    """

    what: str
    work: Callable[[Models, Sequence[SourceImage], Array], Array]
    accuracy: Callable[[Array, Array], float]
    accuracy_of: str


JOBS = (
    Job("segmenter", lambda models, images, _: models.segment(images), mask_iou, "IoU"),
    Job(
        "classifier",
        lambda models, images, logits: models.classify(images, logits),
        worst_cosine,
        "cosine",
    ),
    Job(
        BOTH,
        lambda models, images, _: models.classify(images, models.segment(images)),
        worst_cosine,
        "cosine",
    ),
)


def model_rows(
    contenders: Sequence[Models],
    reference: Models,
    images: Sequence[SourceImage],
    seconds: float,
    environment: Environment,
    advance: Callable[[str], object],
) -> Iterator[Row]:
    """A row a contender and job; the ratios are against the first contender.

    Args:
        contenders: loaded; whoever cannot steer is compared with the plain model.
        reference: in float32, what accuracy is measured against.
        images: one batch.
        seconds: about how long a job may take.
        environment: where and when.
        advance: called with what is timed next.
    """
    logits = reference.segment(images)
    plain = reference.classify(images, 0 * logits + NO_REGION)
    expected = {True: reference.classify(images, logits), False: plain}
    peer = contenders[0]
    for job in JOBS:

        def work(models: Models, job: Job = job) -> Array:
            return job.work(models, images, logits)

        answers = {id(models): work(models) for models in contenders}
        timed = race(
            {str(id(models)): lambda models=models: work(models) for models in contenders},  # type: ignore[misc]
            str(id(peer)),
            seconds,
            lambda job=job: advance(job.what),  # type: ignore[misc]
        )
        for models in contenders:
            right = logits if job.accuracy_of == "IoU" else expected[models.steered]
            accuracy = job.accuracy(answers[id(models)], right)
            found = timed[str(id(models))]
            yield _row(job, models, peer, len(images), accuracy, found, environment)


def _row(
    job: Job,
    models: Models,
    peer: Models,
    batch: int,
    accuracy: float,
    timed: Timed,
    environment: Environment,
) -> Row:
    return Row(
        part=PART,
        what=job.what,
        contender=models.name,
        precision=models.precision,
        batch=batch,
        setting="",
        environment=environment,
        rounds=timed.rounds,
        images_per_second=batch / timed.median,
        p50_ms=1e3 * timed.median,
        p95_ms=1e3 * timed.p95,
        accuracy=accuracy,
        accuracy_of=job.accuracy_of,
        peer="" if models is peer else f"{peer.name}, {peer.precision}",
        ratio=None if models is peer else timed.ratio,
        noise=timed.noise,
    )
