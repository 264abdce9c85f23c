"""`Engine`: an engine directory that answers."""

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medfocus.engine.artifact import read_engine_directory
from medfocus.engine.backends import Backend, load_backend
from medfocus.engine.images import ImageSource, SourceImage, read_images
from medfocus.engine.manifest import Manifest
from medfocus.engine.prediction import Prediction
from medfocus.engine.prepare import MASK_STRIDE, Box, Points, Prepared, collate, prepare
from medfocus.errors import InputError, MedfocusError

NO_REGION = -32.0  # a focus logit that says "nothing here", as the segmenter's graph writes it

log = logging.getLogger(__name__)


class Engine:
    """Segments and classifies images; made by `Engine.load`. Safe to share between threads.

    Attributes:
        manifest: what the engine directory says about itself.
        backend: the name of the runtime in use; device: where it runs.
    """

    def __init__(self, manifest: Manifest, backend: Backend) -> None:
        self.manifest = manifest
        self._backend = backend
        self._lock = threading.Lock()

    @classmethod
    def load(cls, path: str | Path, backend: str = "auto", device: str = "auto") -> "Engine":
        """Read an engine directory, check every hash, and make its graphs ready.

        Args:
            path: the directory.
            backend: `auto` or `torch`.
            device: `auto`, `cpu` or `cuda`.

        Raises:
            EngineDirectoryError: incomplete, changed, or of an unknown schema.
            InputError: a backend or device that is not there.
        """
        directory = read_engine_directory(path)
        engine = cls(directory.manifest, load_backend(directory, backend, device))
        log.info("engine loaded: backend %s on %s", engine.backend, engine.device)
        return engine

    @property
    def backend(self) -> str:
        """The name of the runtime in use."""
        return self._backend.name

    @property
    def device(self) -> str:
        """Where it runs: `cpu` or `cuda`."""
        return self._backend.device

    def classify(
        self,
        batch: ImageSource | Iterable[ImageSource],
        *,
        boxes: Sequence[Box | None] | None = None,
        points: Sequence[Points | None] | None = None,
        strict: bool = False,
    ) -> list[Prediction]:
        """Classify images; every item of the batch is answered, in order.

        Args:
            batch: paths, uint8 or float arrays and tensors, PIL images, or one of these; an array
                of four dimensions is a batch itself. A file of several frames gives a prediction
                a frame.
            boxes: (left, top, right, bottom) an item, or None where it has none, in its pixels.
            points: [(x, y), ...] or [(x, y, 1 inside | 0 outside), ...] an item, or None.
            strict: raise the first item's error instead of answering with it.

        Raises:
            InputError: an empty batch, or as many boxes or points as there are no items.
            MedfocusError: with `strict`, what is wrong with an item.
        """
        sources = _as_list(batch)
        boxes = _matching(boxes, sources, "boxes")
        points = _matching(points, sources, "points")
        answers: list[Prediction] = []
        # Images wait, with their place among the answers, until there are enough for a run.
        # Prompts are not padded to one shape: a padding point takes part in SAM2's attention, and
        # an image's answer must not depend on the prompts of its neighbours.
        waiting: dict[tuple[int, ...], list[tuple[int, Prepared]]] = defaultdict(list)
        for number, (source, box, own) in enumerate(zip(sources, boxes, points, strict=True)):
            name = str(source) if isinstance(source, str | Path) else f"item {number}"
            try:
                for image in read_images(source, name):
                    prepared = self._prepare(image, box, own)
                    chunk = waiting[prepared.points.shape]
                    chunk.append((len(answers), prepared))
                    answers.append(_unanswered(image, prepared))
                    if len(chunk) == self.manifest.buckets[-1]:
                        self._answer(chunk, answers)
                        chunk.clear()
            except MedfocusError as error:
                if strict:
                    raise
                answers.append(_failed(name, error))
        for chunk in waiting.values():
            if chunk:
                self._answer(chunk, answers)
        return answers

    def close(self) -> None:
        """Release the backend's memory; the engine cannot be used afterwards."""
        self._backend.close()

    def _prepare(self, image: SourceImage, box: Box | None, points: Points | None) -> Prepared:
        manifest = self.manifest
        return prepare(image, manifest.preprocessing, manifest.focus, manifest.prompts, box, points)

    def _answer(self, chunk: list[tuple[int, Prepared]], answers: list[Prediction]) -> None:
        """Run both graphs on a chunk and write its predictions into their places."""
        batch = collate([prepared for _, prepared in chunk], self.manifest.preprocessing)
        steered = self.manifest.focus.mode != "none"
        with self._lock:
            if steered:
                logits, score = self._backend.segment(batch.segmenter, batch.points, batch.labels)
            else:
                logits, score = self._no_focus(len(chunk))
            _, probabilities, patch_focus, focused = self._backend.classify(
                batch.classifier, logits, batch.rows, batch.cols
            )
        for row, (place, _) in enumerate(chunk):
            best = int(probabilities[row].argmax())
            answers[place] = replace(
                answers[place],
                label=self.manifest.classes[best],
                probabilities=dict(
                    zip(self.manifest.classes, map(float, probabilities[row]), strict=True)
                ),
                focused=bool(focused[row]),
                focus_score=float(score[row]) if steered else None,
                focus_logits=logits[row] if steered else None,
                patch_focus=patch_focus[row] if steered else None,
            )

    def _no_focus(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        side = self.manifest.preprocessing.segmenter.size // MASK_STRIDE
        return (
            np.full((count, side, side), NO_REGION, np.float32),
            np.zeros(count, np.float32),
        )


def _as_list(batch: Any) -> list[Any]:
    """The items of a batch; one image is a batch of one."""
    if isinstance(batch, str | Path | Image.Image) or getattr(batch, "ndim", 4) < 4:
        batch = [batch]
    items = list(batch)
    if not items:
        raise InputError("batch", "is empty", "give at least one image")
    return items


def _matching(prompts: Sequence[Any] | None, sources: list[Any], name: str) -> Sequence[Any]:
    if prompts is None:
        return [None] * len(sources)
    if len(prompts) != len(sources):
        raise InputError(
            name, f"{len(prompts)} for {len(sources)} images", "give one an image, None for none"
        )
    return prompts


def _unanswered(image: SourceImage, prepared: Prepared) -> Prediction:
    return Prediction(
        image.source, None, {}, False, None, None, prepared.image_size, None, image.warnings
    )


def _failed(name: str, error: MedfocusError) -> Prediction:
    return Prediction(name, None, {}, False, None, None, None, None, (), error)
