"""An engine's two graphs as an implementation, with the engine's own preprocessing."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from medfocus.benchmarks.baselines.models import Models
from medfocus.engine.artifact.directory import EngineDirectory
from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.backends.base import Backend
from medfocus.engine.backends.registry import load_backend
from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import Batch, classifier_view, in_frame, no_focus, pooling
from medfocus.engine.preprocess.resize import normalise, segmenter_pixels
from medfocus.engine.runtime.graphs import Array


def engine_models(directory: EngineDirectory, backend: str, device: str) -> Models:
    """An engine on a backend.

    Raises:
        MedfocusError: the backend is not installed, or cannot load it.
    """
    return _prepared(directory, load_backend(directory, backend, device))


def reference_models(directory: EngineDirectory) -> Models:
    """The engine's models in PyTorch and float32 on the CPU: what accuracy is measured against.

    Raises:
        MedfocusError: the engine was exported without the target `torch`.
    """
    return _prepared(directory, reference_backend(directory, "cpu"))


def reference_backend(directory: EngineDirectory, device: str) -> Backend:
    """The engine's graphs in PyTorch and float32, whatever it was exported in.

    Raises:
        MedfocusError: the engine was exported without the target `torch`.
    """
    backends = {**directory.manifest.backends, "torch": "fp32"}
    exact = replace(directory, manifest=replace(directory.manifest, backends=backends))
    return load_backend(exact, "torch", device)


def run_graphs(backend: Backend, manifest: Manifest, batches: Iterable[Batch]) -> list[int]:
    """The label of every image, as its index among the classes."""
    labels: list[int] = []
    for batch in batches:
        if manifest.focus.mode != "none":
            logits, _ = backend.segment(batch.segmenter, batch.points, batch.labels)
        else:
            logits, _ = no_focus(len(batch.labels), manifest.preprocessing)
        found = backend.classify(batch.classifier, logits, batch.rows, batch.cols)
        labels.extend(found[1].argmax(-1).tolist())
    return labels


def _prepared(directory: EngineDirectory, backend: Backend) -> Models:
    manifest = directory.manifest
    first, second = manifest.preprocessing.segmenter, manifest.preprocessing.classifier
    points, labels = in_frame(manifest.prompts, first.size)

    def segment(images: Sequence[SourceImage]) -> Array:
        pixels = np.stack([segmenter_pixels(image.pixels, first.size) for image in images])
        shown = normalise(pixels, first.mean, first.std)
        count = len(images)
        focus_logits, _ = backend.segment(
            shown,
            np.broadcast_to(points, (count, *points.shape)).copy(),
            np.broadcast_to(labels, (count, *labels.shape)).copy(),
        )
        return focus_logits

    def classify(images: Sequence[SourceImage], focus_logits: Array) -> Array:
        pixels = np.stack([classifier_view(image, manifest.preprocessing) for image in images])
        shown = normalise(pixels, second.mean, second.std)
        settings = manifest.preprocessing, manifest.focus
        weights = [pooling(i.pixels.shape[:2], *settings, i.pixel_aspect) for i in images]
        rows, cols = (np.stack(half) for half in zip(*weights, strict=True))
        embedding, *_ = backend.classify(shown, focus_logits, rows, cols)
        return embedding

    return Models(segment, classify, manifest.focus.mode != "none", backend.close)
