"""The part `scaling`: images per second by batch size, image size, prompts, classes and callers."""

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
from medfocus.benchmarks.baselines.implementations import Implementation
from medfocus.benchmarks.baselines.models import Models
from medfocus.benchmarks.bench.agreement import mask_iou, worst_cosine
from medfocus.benchmarks.bench.failures import first_line
from medfocus.benchmarks.bench.options import BenchOptions
from medfocus.benchmarks.bench.report.rows import BOTH, BenchRow
from medfocus.benchmarks.bench.timing.cold_start import cold_start
from medfocus.benchmarks.bench.timing.concurrent_callers import call
from medfocus.benchmarks.bench.timing.interleaved import time_interleaved
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
        setting: in words; empty where the batch size is varied.
        images: batch size.
        run: what is timed; returns its answer.
        expected: the float32 models' answer.
        peak_memory: MiB, of its own process; None where the batch size is not varied.
    """

    setting: str
    images: int
    run: Callable[[], Array]
    expected: Callable[[], Array]
    peak_memory: float | None = None


def scaling_part(options: BenchOptions) -> Iterator[BenchRow]:
    """Rows of the first engine on each backend, and of the baselines."""
    first = options.engines[0]
    reference = reference_models(first)
    for one in options.implementations:
        if one.engine != first.path:
            continue
        try:
            with closing(one.load()) as models:
                batches = list(_batches(options, one, models, reference))
                yield from _sweep(options, one, BOTH, batches)
                yield from _sweep(options, one, "one image", _sides(models, reference))
            if one.way in NAMES:
                yield from _engine_rows(options, one, first)
        except Exception as error:  # each runtime has its own classes, without a common base
            yield options.row(PART, BOTH, one, 1, status=first_line(error))
    reference.close()


def _engine_rows(
    options: BenchOptions, engine: Implementation, directory: EngineDirectory
) -> Iterator[BenchRow]:
    """What only an engine has settings for."""
    sweeps = {"segmenter": _prompts(directory, engine.way, engine.device)}
    if engine.way == "torch":
        sweeps["classifier, hard focus"] = _shares(directory, engine.device)
        sweeps["classifier, of prepared images"] = _classes(directory, engine.device)
    for what, cases in sweeps.items():
        yield from _sweep(options, engine, what, list(cases))
    images = phantoms(CALLERS[-1])
    labels = _labels(directory, images)
    with closing(Engine.load(engine.engine, engine.way, engine.device)) as loaded:
        for callers in CALLERS:
            options.report(f"{callers} callers on {engine.title}")
            pixels = [image.pixels for image in images]
            right = lambda index, answer: answer.label == labels[index]  # noqa: E731
            found = call(loaded, pixels, right, callers, options.seconds)
            setting = f"{callers} callers"
            yield options.row(PART, "Engine.classify", engine, 1, setting=setting, **found)


def _sweep(
    options: BenchOptions, implementation: Implementation, what: str, cases: Sequence[Case]
) -> Iterator[BenchRow]:
    """A row per case, timed in turns."""
    options.report(f"{what} on {implementation.title}")
    answers = [case.run() for case in cases]
    runs = {str(place): case.run for place, case in enumerate(cases)}
    timed = time_interleaved(runs, "0", options.seconds)
    for case, answer, found in zip(cases, answers, timed.values(), strict=True):
        masks = answer.ndim == 3
        yield options.row(
            PART,
            what,
            implementation,
            case.images,
            setting=case.setting,
            **found.figures(case.images, ""),
            peak_memory=case.peak_memory,
            accuracy=(mask_iou if masks else worst_cosine)(answer, case.expected()),
            accuracy_of="IoU" if masks else "cosine",
        )


def _labels(directory: EngineDirectory, images: Sequence[SourceImage]) -> list[str]:
    """Each image's label by the float32 models."""
    manifest, inputs = directory.manifest, directory.manifest.preprocessing
    prepared = [prepare(image, inputs, manifest.focus, manifest.prompts) for image in images]
    with closing(reference_backend(directory, "cpu")) as backend:
        found = run_graphs(backend, manifest, [collate([one], inputs) for one in prepared])
    return [manifest.classes[place] for place in found]


def _expected(models: Models, reference: Models, images: Sequence[SourceImage]) -> Array:
    """The float32 models' embeddings; without steering where the implementation has none."""
    logits = reference.segment(images)
    return reference.classify(images, logits if models.steered else 0 * logits + NO_REGION)


def _both(
    models: Models, reference: Models, images: Sequence[SourceImage], setting: str = ""
) -> Case:
    expected = partial(_expected, models, reference, images)
    return Case(setting, len(images), partial(models.embed, images), expected)


def _batches(
    options: BenchOptions, implementation: Implementation, models: Models, reference: Models
) -> Iterator[Case]:
    """Up to the largest batch that the engine was exported for."""
    largest = max(options.engines[0].manifest.buckets)
    images = phantoms(largest)
    for size in (size for size in BATCHES if size <= largest):
        options.report(f"memory of {implementation.title}, batch {size}")
        memory = cold_start(implementation, images[:size]).peak_memory
        yield _both(models, reference, images[:size])._replace(peak_memory=memory)


def _sides(models: Models, reference: Models) -> list[Case]:
    """One image in several sizes, which only preprocessing depends on."""
    picture = Image.fromarray(phantoms(1)[0].pixels)
    cases = []
    for side in SIDES:
        pixels = np.asarray(picture.resize((side, side)))
        cases.append(_both(models, reference, [SourceImage(pixels, "")], f"{side}² pixels"))
    return cases


def _prompts(directory: EngineDirectory, way: str, device: str) -> Iterator[Case]:
    """The segmenter with the first few of the engine's prompts."""
    images = phantoms(1)
    whole = directory.manifest.prompts
    for count in (count for count in PROMPTS if count <= len(whole.points)):
        fewer = Prompts(whole.points[:count], whole.labels[:count])
        other = replace(directory, manifest=replace(directory.manifest, prompts=fewer))
        segment = partial(engine_models(other, way, device).segment, images)
        yield Case(f"{count} prompts", 1, segment, partial(reference_models(other).segment, images))


def _shares(directory: EngineDirectory, device: str) -> Iterator[Case]:
    """The classifier with `hard` focus on a band of the image: it computes only what is kept."""
    manifest, images = directory.manifest, phantoms(min(8, max(directory.manifest.buckets)))
    hard = replace(manifest, focus=replace(manifest.focus, mode="hard"))
    other = replace(directory, manifest=hard)
    models, reference = engine_models(other, "torch", device), reference_models(other)
    rows, _ = pooling(images[0].pixels.shape[:2], manifest.preprocessing, manifest.focus)
    g, h = rows.shape
    for share in SHARES:
        kept = round(share * g)  # rows of patches
        logits = np.full((len(images), h, h), NO_REGION, np.float32)
        logits[:, : kept * h // g] = -NO_REGION
        yield Case(
            f"{kept / g:.0%} of the patches kept",
            len(images),
            partial(models.classify, images, logits),
            partial(reference.classify, images, logits),
        )


def _classes(directory: EngineDirectory, device: str) -> Iterator[Case]:
    """The classifier with random class embeddings: one product grows with their number."""
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
        run, expected = partial(probabilities, backend), partial(probabilities, exact)
        yield Case(f"{count:,} classes", len(images), run, expected)
