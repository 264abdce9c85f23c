"""The part `scaling`: images a second against all that a user can ask more of.

Batch (with memory), image size, prompts, kept patches, classes, callers.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from medfocus.benchmarks.baselines.engine_models import (
    engine_models,
    reference_backend,
    reference_models,
    run_graphs,
)
from medfocus.benchmarks.baselines.implementations import Implementation, Models
from medfocus.benchmarks.bench.agreement import mask_iou, worst_cosine
from medfocus.benchmarks.bench.failures import first_line
from medfocus.benchmarks.bench.options import BenchOptions
from medfocus.benchmarks.bench.parts.models import BOTH
from medfocus.benchmarks.bench.report.rows import BenchRow
from medfocus.benchmarks.bench.timing.cold_start import alone
from medfocus.benchmarks.bench.timing.concurrent_callers import call
from medfocus.benchmarks.bench.timing.interleaved import race
from medfocus.engine import Engine
from medfocus.engine.artifact.directory import EngineDirectory, load_tensors
from medfocus.engine.artifact.layout import CLASSIFIER_WEIGHTS, HEAD_WEIGHTS, SEGMENTER_WEIGHTS
from medfocus.engine.artifact.writing import unpublished
from medfocus.engine.backends.base import Backend
from medfocus.engine.backends.registry import NAMES, load_backend
from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import NO_REGION, collate, no_focus, pooling, prepare
from medfocus.engine.runtime.graphs import Array
from medfocus.export.validate.images import phantoms
from medfocus.settings import Prompts

PART = "scaling"
BATCHES = (1, 2, 4, 8, 16, 32)
PROMPTS = (1, 3, 9)
SIDES = (256, 512, 1024, 2048)  # pixels
SHARES = (0.1, 0.3, 0.6, 1.0)
CLASSES = (2, 100, 10_000)
CALLERS = (1, 2, 4, 8, 16, 32)


class Case(NamedTuple):
    """One value of what is varied.

    Attributes:
        setting: in words; empty where the batch is what varies.
        images: at once.
        run: the work, with its answer.
        expected: the float32 models' answer.
        peak_memory: MiB, of a process of its own; None where that is not what is varied.
    """

    setting: str
    images: int
    run: Callable[[], Array]
    expected: Callable[[], Array]
    peak_memory: float | None = None


def scaling_part(request: BenchOptions) -> Iterator[BenchRow]:
    """Rows of the first engine on each backend, and of the peers; each sweep in turns."""
    first = request.engines[0]
    reference = reference_models(first)
    for contender in request.contenders:
        if contender.engine != first.path:
            continue
        try:
            with closing(contender.load()) as models:
                batches = list(_batches(request, contender, models, reference))
                yield from _sweep(request, contender, BOTH, batches)
                yield from _sweep(request, contender, "one image", _sides(models, reference))
            if contender.way in NAMES:
                yield from _ours(request, contender, first)
        except Exception as error:  # each runtime has its own kinds, with no base in common
            yield replace(_row(request, contender, BOTH, 1), status=first_line(error))
    reference.close()


def _ours(
    request: BenchOptions, contender: Implementation, directory: EngineDirectory
) -> Iterator[BenchRow]:
    """What only an engine has settings for."""
    sweeps = {"segmenter": _prompts(directory, contender.way, contender.device)}
    if contender.way == "torch":
        sweeps["classifier, hard focus"] = _shares(directory, contender.device)
        sweeps["classifier, of prepared images"] = _classes(directory, contender.device)
    for what, cases in sweeps.items():
        yield from _sweep(request, contender, what, list(cases))
    images = phantoms(CALLERS[-1])
    labels = _labels(directory, images)
    with closing(Engine.load(contender.engine, contender.way, contender.device)) as engine:
        for callers in CALLERS:
            request.say(f"{callers} callers on {contender.name}, {contender.precision}")
            found = call(engine, images, labels, callers, request.seconds)
            row = _row(request, contender, "Engine.classify", 1, f"{callers} callers")
            yield replace(row, **found)


def _sweep(
    request: BenchOptions, contender: Implementation, what: str, cases: Sequence[Case]
) -> Iterator[BenchRow]:
    request.say(f"{what} on {contender.name}, {contender.precision}")
    answers = [case.run() for case in cases]
    runs = {str(place): case.run for place, case in enumerate(cases)}
    timed = race(runs, "0", request.seconds)
    for case, answer, found in zip(cases, answers, timed.values(), strict=True):
        masks = answer.ndim == 3
        yield replace(
            _row(request, contender, what, case.images, case.setting),
            **found.figures(case.images, ""),
            peak_memory=case.peak_memory,
            accuracy=(mask_iou if masks else worst_cosine)(answer, case.expected()),
            accuracy_of="IoU" if masks else "cosine",
        )


def _row(
    request: BenchOptions, contender: Implementation, what: str, batch: int, setting: str = ""
) -> BenchRow:
    where = request.environment
    return BenchRow(PART, what, contender.name, contender.precision, batch, setting, where)


def _labels(directory: EngineDirectory, images: Sequence[SourceImage]) -> list[str]:
    """Each image's label by the float32 models."""
    manifest, inputs = directory.manifest, directory.manifest.preprocessing
    backend = reference_backend(directory, "cpu")
    prepared = [prepare(image, inputs, manifest.focus, manifest.prompts) for image in images]
    found = run_graphs(backend, manifest, [collate([one], inputs) for one in prepared])
    backend.close()
    return [manifest.classes[place] for place in found]


def _expected(models: Models, reference: Models, images: Sequence[SourceImage]) -> Array:
    """The float32 models' embeddings; the plain ones where this contender cannot steer."""
    logits = reference.segment(images)
    return reference.classify(images, logits if models.steered else 0 * logits + NO_REGION)


def _both(
    models: Models, reference: Models, images: Sequence[SourceImage], setting: str = ""
) -> Case:
    return Case(
        setting,
        len(images),
        lambda: models.classify(images, models.segment(images)),
        partial(_expected, models, reference, images),
    )


def _batches(
    request: BenchOptions, contender: Implementation, models: Models, reference: Models
) -> Iterator[Case]:
    """Up to the largest batch that the engine was made for."""
    most = max(request.engines[0].manifest.buckets)
    images = phantoms(most)
    for size in (size for size in BATCHES if size <= most):
        request.say(f"memory of {contender.name}, {contender.precision}, batch {size}")
        memory = alone(contender, images[:size]).peak_memory
        yield _both(models, reference, images[:size])._replace(peak_memory=memory)


def _sides(models: Models, reference: Models) -> list[Case]:
    """One image of several sizes, which only its preparation should feel."""
    picture = Image.fromarray(phantoms(1)[0].pixels)
    cases = []
    for side in SIDES:
        pixels = np.asarray(picture.resize((side, side)))
        cases.append(_both(models, reference, [SourceImage(pixels, "")], f"{side}² pixels"))
    return cases


def _prompts(directory: EngineDirectory, way: str, device: str) -> Iterator[Case]:
    """The first few of the engine's prompts, in the segmenter."""
    images = phantoms(1)
    whole = directory.manifest.prompts
    for count in (count for count in PROMPTS if count <= len(whole.points)):
        fewer = Prompts(whole.points[:count], whole.labels[:count])
        manifest = replace(directory.manifest, prompts=fewer)
        other = replace(directory, manifest=manifest)
        models, reference = engine_models(other, way, device), reference_models(other)
        yield Case(
            f"{count} prompts",
            1,
            partial(models.segment, images),
            partial(reference.segment, images),
        )


def _shares(directory: EngineDirectory, device: str) -> Iterator[Case]:
    """`hard` focus on a band over the picture, in the classifier: it pays for what is kept."""
    manifest, images = directory.manifest, phantoms(min(8, max(directory.manifest.buckets)))
    hard = replace(manifest, focus=replace(manifest.focus, mode="hard"))
    other = replace(directory, manifest=hard)
    models, reference = engine_models(other, "torch", device), reference_models(other)
    size = images[0].pixels.shape[:2]
    rows, _ = pooling(size, manifest.preprocessing, manifest.focus)
    for share in SHARES:
        kept = round(share * len(rows))  # rows of patches
        logits = np.full((len(images), rows.shape[1], rows.shape[1]), NO_REGION, np.float32)
        logits[:, : kept * rows.shape[1] // len(rows)] = -NO_REGION
        yield Case(
            f"{kept / len(rows):.0%} of the patches kept",
            len(images),
            partial(models.classify, images, logits),
            partial(reference.classify, images, logits),
        )


def _classes(directory: EngineDirectory, device: str) -> Iterator[Case]:
    """Heads with random class embeddings: a product more that grows with them."""
    tensors = load_tensors(directory, HEAD_WEIGHTS)
    width = tensors["class_embeddings"].shape[1]
    images, manifest = phantoms(min(8, max(directory.manifest.buckets))), directory.manifest
    inputs = manifest.preprocessing
    prepared = [prepare(image, inputs, manifest.focus, manifest.prompts) for image in images]
    batch = collate(prepared, inputs)
    logits, _ = no_focus(len(images), inputs)

    def probabilities(backend: Backend) -> Array:
        return backend.classify(batch.classifier, logits, batch.rows, batch.cols)[1]

    generator = np.random.default_rng(0)
    for count in CLASSES:
        embeddings = generator.standard_normal((count, width), np.float32)
        head = {name: tensors[name] for name in ("logit_scale", "strength")}
        names = tuple(f"class {number}" for number in range(count))
        with tempfile.TemporaryDirectory() as folder:
            for name in (SEGMENTER_WEIGHTS, CLASSIFIER_WEIGHTS):
                shutil.copy(directory.file(name), folder)
            save_file({**head, "class_embeddings": embeddings}, Path(folder, HEAD_WEIGHTS))
            other = unpublished(Path(folder), replace(manifest, classes=names))
            backend = load_backend(other, "torch", device)
            exact = reference_backend(other, "cpu")
        yield Case(
            f"{count:,} classes",
            len(images),
            partial(probabilities, backend),
            partial(probabilities, exact),
        )
