"""`Engine`: an engine directory that answers."""

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
from medfocus.errors import InputError, MedfocusError, OutputError

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
        self._closed = False

    @classmethod
    def load(cls, path: str | Path, backend: str = "auto", device: str = "auto") -> "Engine":
        """Read an engine directory, check every hash, and make its graphs ready.

        Args:
            path: the directory.
            backend: `auto`, `torch`, `onnxruntime`, `openvino` or `tensorrt`.
            device: `auto`, `cpu` or `cuda`.

        Raises:
            EngineDirectoryError: incomplete, changed, or of an unknown schema.
            WeightsError: tensors that do not fit the architectures it names.
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
            InputError: an empty batch, boxes or points that are not one an item, a closed engine.
            MedfocusError: with `strict`, what is wrong with an item.
        """
        each = self.classify_each(_as_list(batch), boxes, points)
        answers = [answer for frames in each for answer in frames]
        for answer in answers:
            if strict and answer.error is not None:
                raise answer.error
        return answers

    def classify_each(
        self,
        sources: Sequence[ImageSource],
        boxes: Sequence[Box | None] | None = None,
        points: Sequence[Points | None] | None = None,
    ) -> list[list[Prediction]]:
        """As `classify`, with a list an item: the predictions of its frames."""
        boxes = _matching(boxes, sources, "boxes")
        points = _matching(points, sources, "points")
        answers: list[list[Prediction]] = [[] for _ in sources]
        # Images wait, with their place among the answers, until there are enough for a run.
        # Prompts are not padded to one shape: a padding point takes part in SAM2's attention, and
        # an image's answer must not depend on the prompts of its neighbours.
        waiting: dict[tuple[int, ...], list[_Waiting]] = defaultdict(list)
        items = zip(sources, boxes, points, answers, strict=True)
        for number, (source, box, own, frames) in enumerate(items):
            name = str(source) if isinstance(source, str | Path) else f"item {number}"
            try:
                images = read_images(source, name)
            except MedfocusError as error:
                frames.append(_failed(name, error))
                continue
            for image in images:
                try:
                    prepared = self._prepare(image, box, own)
                except MedfocusError as error:
                    frames.append(_failed(image.source, error))
                    continue
                chunk = waiting[prepared.points.shape]
                chunk.append(_Waiting(frames, len(frames), prepared))
                frames.append(_unanswered(image, prepared))
                if len(chunk) == self.manifest.buckets[-1]:
                    self._answer(chunk)
                    chunk.clear()
        for chunk in waiting.values():
            if chunk:
                self._answer(chunk)
        return answers

    def close(self) -> None:
        """Release the backend's memory; `classify` raises InputError afterwards."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._backend.close()

    def _prepare(self, image: SourceImage, box: Box | None, points: Points | None) -> Prepared:
        manifest = self.manifest
        return prepare(image, manifest.preprocessing, manifest.focus, manifest.prompts, box, points)

    def _answer(self, chunk: list["_Waiting"]) -> None:
        """Run both graphs on a chunk and write its predictions into their places."""
        batch = collate([waiting.prepared for waiting in chunk], self.manifest.preprocessing)
        steered = self.manifest.focus.mode != "none"
        with self._lock:
            if self._closed:
                raise InputError("engine", "is closed", "load it again")
            if steered:
                logits, score = self._backend.segment(batch.segmenter, batch.points, batch.labels)
            else:
                logits, score = self._no_focus(len(chunk))
            _, probabilities, patch_focus, focused = self._backend.classify(
                batch.classifier, logits, batch.rows, batch.cols
            )
        for row, waiting in enumerate(chunk):
            unanswered = waiting.frames[waiting.place]
            if not np.isfinite(probabilities[row]).all():
                waiting.frames[waiting.place] = _failed(
                    unanswered.source,
                    OutputError(
                        unanswered.source,
                        "the model's probabilities are not finite numbers",
                        "check the engine's weights and head; the image itself was readable",
                    ),
                )
                continue
            # Copies, so that keeping one prediction does not keep its whole batch.
            waiting.frames[waiting.place] = replace(
                unanswered,
                label=self.manifest.classes[int(probabilities[row].argmax())],
                probabilities=dict(
                    zip(self.manifest.classes, map(float, probabilities[row]), strict=True)
                ),
                focused=bool(focused[row]),
                focus_score=float(score[row]) if steered else None,
                focus_logits=logits[row].copy() if steered else None,
                patch_focus=patch_focus[row].copy() if steered else None,
            )

    def _no_focus(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        side = self.manifest.preprocessing.segmenter.size // MASK_STRIDE
        return (
            np.full((count, side, side), NO_REGION, np.float32),
            np.zeros(count, np.float32),
        )


@dataclass(frozen=True, eq=False)
class _Waiting:
    """An image to run, and where its prediction goes: `frames[place]`."""

    frames: list[Prediction]
    place: int
    prepared: Prepared


def _as_list(batch: ImageSource | Iterable[ImageSource]) -> list[ImageSource]:
    """The items of a batch; one image is a batch of one."""
    if isinstance(batch, str | Path | Image.Image) or getattr(batch, "ndim", None) in (2, 3):
        return [batch]  # type: ignore[list-item]
    try:
        items = list(batch)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(
            "batch", f"is a {type(batch).__name__}", "give a list of images, or one image"
        ) from None
    if not items:
        raise InputError("batch", "is empty", "give at least one image")
    return items


def _matching(prompts: Sequence[Any] | None, sources: Sequence[Any], name: str) -> Sequence[Any]:
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
