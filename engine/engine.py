"""`Engine`: loads an engine directory and classifies images with it."""

import asyncio
import logging
import os
import weakref
from collections.abc import Generator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future
from contextlib import AbstractContextManager
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.backends.base import Backend
from medfocus.engine.backends.device import device_name
from medfocus.engine.io.images import ImageSource
from medfocus.engine.io.reading.limits import ReadingLimits
from medfocus.engine.io.reading.reader import FileReader
from medfocus.engine.loading import batch_limit, load_within
from medfocus.engine.prediction import Prediction, failed_prediction
from medfocus.engine.preprocess.prompts import Box, PerFrame, Points
from medfocus.engine.runtime.image_request import Kept
from medfocus.engine.runtime.metrics import Observer, Span, Stats, notify
from medfocus.engine.runtime.pipeline import CLOSED, Pipeline
from medfocus.engine.runtime.read_ahead import (
    PendingPrediction,
    PromptedSource,
    answer_in_steps,
    stream_sources,
)
from medfocus.engine.series.prediction import SeriesPrediction
from medfocus.engine.series.run import answer_series
from medfocus.engine.sources import ClassifyOptions, StreamOptions, as_list, with_prompts
from medfocus.errors import InputError, MedfocusError, OutputError, without_traceback

log = logging.getLogger(__name__)

MOST_WAIT_MS = 60_000.0
MOST_THREADS = 16  # that preprocess images, and as many that read them


class Engine:
    """Segments and classifies images; created by `Engine.load`. Safe to share between threads.

    Concurrent requests, from any threads, are batched dynamically.

    Attributes:
        manifest: the engine directory's manifest.
    """

    def __init__(self, manifest: Manifest, backend: Backend, pipeline: Pipeline) -> None:
        self.manifest = manifest
        self._backend = backend
        self._pipeline = pipeline
        # The pipeline's threads hold no reference to the engine, so dropping the engine ends them.
        self._finalizer = weakref.finalize(self, pipeline.stop)
        self._finalizer.atexit = False  # at exit the pipeline itself waits for its threads

    @classmethod
    def load(
        cls,
        path: str | Path,
        backend: str = "auto",
        device: str = "auto",
        *,
        max_batch: int | None = None,
        max_wait_ms: float = 0.0,
        deterministic: bool = False,
        memory_limit: int | None = None,
        read_seconds: float = ReadingLimits.seconds,
        max_frames: int | None = None,
        trust_files: bool = False,
        verify: bool = True,
    ) -> "Engine":
        """Read an engine directory, check every hash, load its graphs and allocate its buffers.

        Then one of the engine's check images is classified, and the answer compared with that of
        the float32 model: a runtime may compute otherwise here than where the engine was exported.
        With `auto`, a backend that misses its limits is logged as a warning, and the next is taken.

        Args:
            path: the directory.
            backend: `auto` for the fastest that can be used, or the name of one: `torch`,
                `onnxruntime`, `openvino`, `tensorrt`.
            device: `auto`, `cpu`, `cuda` for the first GPU, or `cuda:1` for the second.
            max_batch: most images per batch; by default the largest batch size that the engine
                was exported for.
            max_wait_ms: milliseconds for which an incomplete batch waits for more images. With 0
                it never waits: a batch is the images that queued while earlier batches ran.
            deterministic: run every image in a batch of one, so that its prediction is bitwise
                independent of other images.
            memory_limit: bytes of the device's memory that the engine may take with `max_batch`
                images under way, measured on blank images before the engine is returned.
            read_seconds: of processor time, the limit on reading one image of a file. A file that
                takes longer, takes more than 1.5 GiB of memory, or crashes a decoder, costs itself
                only.
            max_frames: most images of one file; a file of more has an error in their place.
            trust_files: read files in this process, without that protection: a little faster.
            verify: classify that check image, which takes the time of one image.

        Raises:
            EngineDirectoryError: incomplete, changed, or of an unknown schema.
            WeightsError: tensors that do not fit the architectures that the manifest names.
            InputError: an unknown or unavailable backend or device, a setting out of its range,
                or more memory than allowed.
            ParityError: the answer for the check image is too far from the float32 model's.
            DeviceError: a GPU that fails, or too little memory for the buffers.
        """
        directory = read_engine_directory(path)
        manifest = directory.manifest
        images = batch_limit(max_batch, manifest.buckets[-1], deterministic)
        if not 0 <= max_wait_ms <= MOST_WAIT_MS:
            raise InputError("max_wait_ms", f"is {max_wait_ms}", f"use 0 to {MOST_WAIT_MS:g}")
        if memory_limit is not None and memory_limit <= 0:
            raise InputError("memory_limit", f"is {memory_limit}", "give bytes, or None")
        reader = FileReader(
            ReadingLimits(read_seconds, max_frames=max_frames), trust_files=trust_files
        )
        loaded, pool = load_within(memory_limit, directory, backend, device, images, verify=verify)
        pipeline = Pipeline(
            *pool,
            max_batch=images,
            max_wait=max_wait_ms / 1000,
            threads=min(len(os.sched_getaffinity(0)), MOST_THREADS),
            reader=reader,
            release=loaded.close,
        )
        place = device_name(loaded.device, loaded.ordinal)
        log.info("engine loaded: backend %s on %s", loaded.name, place)
        return cls(manifest, loaded, pipeline)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        sam2, clip = self.manifest.models.sam2.architecture, self.manifest.models.clip.architecture
        state = "closed" if self._pipeline.failure else f"{self.backend} on {self.device}"
        return f"<Engine {sam2} + {clip}, {len(self.manifest.classes)} classes, {state}>"

    @property
    def backend(self) -> str:
        """The name of the backend in use."""
        return self._backend.name

    @property
    def device(self) -> str:
        """Where it runs: `cpu`, `cuda` for the first GPU, `cuda:1` for the second."""
        return device_name(self._backend.device, self._backend.ordinal)

    @overload
    def classify(
        self,
        batch: ImageSource | Iterable[ImageSource],
        *,
        group: None = None,
        **options: Unpack[ClassifyOptions],
    ) -> list[Prediction]: ...
    @overload
    def classify(
        self,
        batch: ImageSource | Iterable[ImageSource],
        *,
        group: Literal["series"],
        **options: Unpack[ClassifyOptions],
    ) -> list[SeriesPrediction]: ...
    def classify(
        self,
        batch: ImageSource | Iterable[ImageSource],
        *,
        boxes: Sequence[PerFrame[Box] | None] | None = None,
        points: Sequence[PerFrame[Points] | None] | None = None,
        strict: bool = False,
        embeddings: bool = False,
        keep_masks: bool = True,
        group: Literal["series"] | None = None,
    ) -> list[Prediction] | list[SeriesPrediction]:
        """Classify a batch of images.

        Args:
            batch: paths, bytes of files, binary files, pydicom Datasets, uint8 or float arrays and
                tensors, PIL images, or one of these; an array of four dimensions is a batch itself.
            boxes: per item (left, top, right, bottom) in pixels of the image, or None; for a file
                of several frames also {frame: box}, from 0, and the other frames have none. One
                for a frame that is not there is an error, in a prediction of its own.
            points: per item [(x, y), ...] or [(x, y, label), ...] in pixels of the image, label 1
                for inside and 0 for outside; or None; or {frame: points}.
            strict: raise the first error of an item instead of returning it in the prediction.
            embeddings: give each prediction its `embedding`. Asked for by call, and not by engine:
                callers that share an engine want different things of it.
            keep_masks: give each prediction its focus mask and patch focus. They are most of its
                memory; without them it still says whether and how well it was focused.
            group: `series` for one answer per DICOM series or NIfTI volume.

        Returns:
            The predictions, in the order of the items: one per image, and for a file of several
            frames one per frame. With `group`, one per study, in the order in which the items
            begin them.

        Raises:
            InputError: an empty batch, not one entry of boxes or points per item, a closed engine.
            DeviceError: the backend failed in an earlier call.
            MedfocusError: with `strict`, the first error of an item.
        """
        sources = as_list(batch, boxes, points)
        options: StreamOptions = {
            "boxes": boxes,
            "points": points,
            "embeddings": embeddings,
            "keep_masks": keep_masks,
        }
        if group is not None:
            studies = list(self.stream(sources, group=group, **options))
            _raise_first(strict, (each for study in studies for each in study.slices))
            return studies
        predictions = list(self.stream(sources, **options))
        _raise_first(strict, predictions)
        return predictions

    @overload
    def stream(
        self,
        sources: Iterable[ImageSource],
        *,
        group: None = None,
        **options: Unpack[StreamOptions],
    ) -> Iterator[Prediction]: ...
    @overload
    def stream(
        self,
        sources: Iterable[ImageSource],
        *,
        group: Literal["series"],
        **options: Unpack[StreamOptions],
    ) -> Iterator[SeriesPrediction]: ...
    def stream(
        self,
        sources: Iterable[ImageSource],
        *,
        boxes: Iterable[PerFrame[Box] | None] | None = None,
        points: Iterable[PerFrame[Points] | None] | None = None,
        batch_size: int | None = None,
        embeddings: bool = False,
        keep_masks: bool = True,
        group: Literal["series"] | None = None,
    ) -> Iterator[Prediction] | Iterator[SeriesPrediction]:
        """Classify a stream of images in bounded memory; predictions come in their order.

        Reading, segmentation and classification of different images overlap, with each other and
        with the caller's work on a prediction. Files are read by threads; images in memory are
        copied when the iterable yields them. If the iterable raises, the predictions of all
        earlier sources are yielded first.

        Args:
            sources: like the items of `classify`'s batch; may be endless, and may wait for the
                predictions of earlier ones. Pulled in another thread, ahead of the predictions.
            boxes: like those of `classify`, one per source.
            points: like those of `classify`, one per source.
            batch_size: sources that are read ahead of those under way; by default `max_batch`.
            embeddings: see `classify`.
            keep_masks: see `classify`.
            group: see `classify`. All sources are then pulled and their headers read before the
                first is classified; in memory are the predictions of one series.

        Raises:
            InputError: not one entry of boxes or points per source, a closed engine; with `group`,
                an array or a picture in memory.
            DeviceError: the backend failed in an earlier call. If it fails in this one, each
                remaining prediction has that error.
        """
        kept = Kept(masks=keep_masks, embedding=embeddings)
        if group is not None:
            return self._series(group, with_prompts(sources, boxes, points), batch_size, kept)
        pending = self._stream(sources, boxes, points, batch_size, kept)
        return (self._prediction(item) for item in pending)

    def stream_each(
        self,
        sources: Iterable[ImageSource],
        *,
        boxes: Iterable[PerFrame[Box] | None] | None = None,
        keep_masks: bool = True,
    ) -> Iterator[list[Prediction]]:
        """Like `stream`, but yields one list per source: the predictions of its frames."""
        pending = self._stream(sources, boxes, None, None, Kept(masks=keep_masks))
        return (predictions for _, predictions in self._by_source(pending))

    def submit(
        self,
        batch: ImageSource | Iterable[ImageSource],
        *,
        boxes: Sequence[PerFrame[Box] | None] | None = None,
        points: Sequence[PerFrame[Points] | None] | None = None,
        strict: bool = False,
        embeddings: bool = False,
        keep_masks: bool = True,
        observe: Observer | None = None,
    ) -> "Future[list[Prediction]]":
        """`classify` in the background; it may be called as often as there are images.

        No thread waits for it, so thousands of calls may be under way; they begin in their order,
        as many as fill the batches. The images are read, or copied, after it has returned: change
        none of them before the future is done. Calls not yet done are finished when the program
        exits.

        `observe` and the future's callbacks run in the few threads that run all calls: they must be
        quick, and must not wait for the engine.

        Args:
            batch: see `classify`.
            boxes: see `classify`.
            points: see `classify`.
            strict: see `classify`.
            embeddings: see `classify`.
            keep_masks: see `classify`.
            observe: called before the future is done with the spans of all work on these images,
                each once; that on a whole batch may have been on images of other calls too. If it
                raises, that is logged.

        Returns:
            A future of what `classify` returns or, with `strict`, raises. It can be cancelled until
            it is done, and is so at once: files whose reading has not begun are not read, images
            that are not in a batch yet are dropped, and the answers for the others are thrown away.

        Raises:
            InputError: an empty batch, not one entry of boxes or points per item, a closed engine.
            DeviceError: the backend failed in an earlier call.
        """
        self._checked(None)
        kept = Kept(masks=keep_masks, embedding=embeddings)
        sources = as_list(batch, boxes, points)
        steps = self._steps(sources, boxes, points, strict, kept, observe)
        try:
            return self._pipeline.calls.submit(steps)
        except RuntimeError:  # closed in the meantime
            raise without_traceback(self._pipeline.failure or CLOSED) from None

    async def aclassify(
        self,
        batch: ImageSource | Iterable[ImageSource],
        *,
        boxes: Sequence[PerFrame[Box] | None] | None = None,
        points: Sequence[PerFrame[Points] | None] | None = None,
        strict: bool = False,
        embeddings: bool = False,
        keep_masks: bool = True,
    ) -> list[Prediction]:
        """`classify` for asyncio: the event loop goes on meanwhile.

        Cancelling the task cancels the work, as cancelling `submit`'s future does.
        """
        future = self.submit(
            batch,
            boxes=boxes,
            points=points,
            strict=strict,
            embeddings=embeddings,
            keep_masks=keep_masks,
        )
        return await asyncio.wrap_future(future)

    def encode_image(
        self,
        batch: ImageSource | Iterable[ImageSource],
        *,
        boxes: Sequence[PerFrame[Box] | None] | None = None,
        points: Sequence[PerFrame[Points] | None] | None = None,
    ) -> NDArray[np.float32]:
        """The image embeddings that the classes are compared with, steered by the focus masks.

        As open_clip's `encode_image` gives them: not normalised, and with focus mode `none` equal.
        An adaptation of the encoder (LoRA, visual prompts) is part of them.

        Args:
            batch: see `classify`.
            boxes: see `classify`.
            points: see `classify`.

        Returns:
            float32 (N, E), one row per image in their order; a file of several frames has one row
            per frame.

        Raises:
            MedfocusError: see `classify`; the first image that cannot be read or embedded, for
                which there is no row.
        """
        found = self.classify(
            batch, boxes=boxes, points=points, strict=True, embeddings=True, keep_masks=False
        )
        return np.stack([one.embedding for one in found if one.embedding is not None])

    def stats(self) -> Stats:
        """What the engine has done since it was loaded, and its current load."""
        return self._pipeline.stats()

    @property
    def failure(self) -> MedfocusError | None:
        """Why it answers no more, the backend failed or it was closed; None while it answers."""
        return self._pipeline.failure

    def observe(self, observer: Observer) -> None:
        """Have a function called with the spans of all work when that has finished.

        It runs in several of the pipeline's threads, also at the same time: it must be quick, must
        not wait for the engine, and must not close it. If it raises, that is logged and it is
        called no more.
        """
        self._pipeline.observe(observer)

    def tracing(self) -> AbstractContextManager[list[Span]]:
        """A list to which the spans of all work are appended that finishes within the block.

        Those of work that finishes just as the block ends may still be appended afterwards.
        """
        return self._pipeline.tracing()

    def close(self) -> None:
        """Finish the batches under way, then release threads and memory.

        Requests still queued by other threads fail with an InputError, and so does every later
        call.
        """
        self._finalizer.detach()
        self._pipeline.close()

    def _steps(
        self,
        sources: list[ImageSource],
        boxes: Sequence[PerFrame[Box] | None] | None,
        points: Sequence[PerFrame[Points] | None] | None,
        strict: bool,
        kept: Kept,
        observe: Observer | None,
    ) -> Generator[Future[Any], None, list[Prediction]]:
        """`classify`, in the steps of a `BackgroundCall`."""
        predictions: list[Prediction] = []
        spans: dict[Span, None] = {}  # a batch's are of several images
        for item in answer_in_steps(
            self._pipeline,
            with_prompts(sources, boxes, points),
            self.manifest.prompts,
            self._pipeline.max_batch,
            len(sources),
            kept,
        ):
            if isinstance(item, Future):
                yield item
            else:
                predictions.append(self._prediction(item))
                if observe is not None:
                    spans |= dict.fromkeys(item.spans)
        if observe is not None:
            notify(observe, tuple(spans))
        _raise_first(strict, predictions)
        return predictions

    def _stream(
        self,
        sources: Iterable[ImageSource],
        boxes: Iterable[PerFrame[Box] | None] | None,
        points: Iterable[PerFrame[Points] | None] | None,
        batch_size: int | None,
        kept: Kept,
    ) -> Iterator[PendingPrediction]:
        count = len(sources) if isinstance(sources, Sized) else None
        return self._run(with_prompts(sources, boxes, points), batch_size, count, kept)

    def _series(
        self,
        group: str,
        prompted: Iterator[PromptedSource],
        batch_size: int | None,
        kept: Kept,
    ) -> Iterator[SeriesPrediction]:
        if group != "series":
            problem, hint = "is no way to group images", "use series, or None"
            raise InputError("group", problem, hint, code="input.unknown_choice")
        self._checked(batch_size)
        return answer_series(
            prompted,
            self._pipeline,
            lambda items: self._by_source(self._run(iter(items), batch_size, len(items), kept)),
            self.manifest.join,
        )

    def _run(
        self,
        prompted: Iterator[PromptedSource],
        batch_size: int | None,
        count: int | None,
        kept: Kept,
    ) -> Iterator[PendingPrediction]:
        size = self._checked(batch_size)
        return stream_sources(self._pipeline, prompted, self.manifest.prompts, size, count, kept)

    def _checked(self, batch_size: int | None) -> int:
        """Sources to read ahead; an error if the engine can run none."""
        if batch_size is not None and batch_size < 1:
            raise InputError("batch_size", f"is {batch_size}", "use 1 or more, or None")
        if self._pipeline.forked:
            problem = "was loaded before this process was forked, and has no threads here"
            hint = "load it in each process"
            raise InputError("engine", problem, hint, code="engine.forked")
        if self._pipeline.failure is not None:
            raise without_traceback(self._pipeline.failure)
        return batch_size or self._pipeline.max_batch

    def _by_source(
        self, pending: Iterator[PendingPrediction]
    ) -> Iterator[tuple[int, list[Prediction]]]:
        """Each source's number, and the predictions of its frames."""
        for number, frames in groupby(pending, key=lambda item: item.number):
            yield number, [self._prediction(item) for item in frames]

    def _prediction(self, item: PendingPrediction) -> Prediction:
        try:
            outputs = item.future.result()
        except MedfocusError as error:
            return failed_prediction(item.source, without_traceback(error))
        if not np.isfinite(outputs.probabilities).all():
            problem = "the model's probabilities are not finite numbers"
            hint = "check the engine's weights and head; the image itself could be read"
            return failed_prediction(item.source, OutputError(item.source, problem, hint))
        classes = self.manifest.classes
        steered = self.manifest.focus.mode != "none"
        return Prediction(
            source=item.source,
            label=classes[int(outputs.probabilities.argmax())],
            probabilities=dict(zip(classes, outputs.probabilities.tolist(), strict=True)),
            focused=outputs.focused,
            focus_score=outputs.score if steered else None,
            focus_logits=outputs.focus_logits if steered else None,
            image_size=item.image_size,
            patch_focus=outputs.patch_focus if steered else None,
            warnings=item.warnings,
            embedding=outputs.embedding,
        )


def _raise_first(strict: bool, predictions: Iterable[Prediction]) -> None:
    for prediction in predictions:
        if strict and prediction.error is not None:
            raise prediction.error
