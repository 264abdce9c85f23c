"""From float32 graphs to files that pass the parity gate, made more precise where they do not."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from medfocus.engine.artifact.layout import (
    CLASSIFIER_INT8,
    CLASSIFIER_ONNX,
    SEGMENTER_INT8,
    SEGMENTER_ONNX,
)
from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.artifact.parity import SEGMENTER_FIGURES, Parity, Thresholds
from medfocus.engine.artifact.precision import ComputePrecision, Precision
from medfocus.engine.artifact.writing import unpublished, writing
from medfocus.engine.backends.base import Backend
from medfocus.engine.backends.registry import load_backend
from medfocus.engine.backends.tensorrt.library import PLANS
from medfocus.engine.runtime.graphs import Array
from medfocus.errors import ParityError
from medfocus.export.config import TARGETS, ExportConfig, files_of
from medfocus.export.onnx.activation_ranges import activation_ranges
from medfocus.export.onnx.graphs import classifier_onnx, save, save_checked, segmenter_onnx
from medfocus.export.onnx.half_precision import lower, policy
from medfocus.export.progress import ProgressReporter
from medfocus.export.validate.comparison import (
    THRESHOLDS,
    Answers,
    Images,
    Reference,
    answers,
    batches,
    compare,
    mask_iou_alone,
)
from medfocus.models.graphs import ClassifierGraph, SegmenterGraph

SCRATCH, PLUGIN_ONNX = "scratch", "plugin-fp32.onnx"
ONNX = {"segmenter": SEGMENTER_ONNX, "classifier": CLASSIFIER_ONNX}
INT8 = {"segmenter": SEGMENTER_INT8, "classifier": CLASSIFIER_INT8}
# Images that activation ranges are taken from. NNCF passes over its images more than once, and at
# 1024² spends seconds on each.
RANGE_IMAGES, INT8_IMAGES = 8, {"classifier": 128, "segmenter": 16}


@dataclass(frozen=True, eq=False)
class Gate:
    """The float32 graphs, and what they answer to the images.

    Attributes:
        segmenter, classifier: the PyTorch graphs.
        images: what everything is compared on.
        calibration: what int8 ranges are taken from.
        reference: the answers to `images`.
        plan: what is to be built.
        stages: progress.
    """

    segmenter: SegmenterGraph
    classifier: ClassifierGraph
    images: Images
    calibration: Images
    reference: Answers
    config: ExportConfig
    progress: ProgressReporter

    @classmethod
    def prepare(
        cls,
        segmenter: SegmenterGraph,
        classifier: ClassifierGraph,
        images: Images,
        calibration: Images,
        config: ExportConfig,
        progress: ProgressReporter,
    ) -> "Gate":
        """Run the PyTorch graphs on the images."""
        reference = reference_answers(Reference(segmenter, classifier), images, progress)
        return cls(segmenter, classifier, images, calibration, reference, config, progress)

    def build(self, staging: Path, manifest: Manifest) -> Manifest:
        """Write the graphs of every target into `staging`, and check each of them.

        Returns:
            The manifest with precision, backends, parity and thresholds filled in.

        Raises:
            ParityError: a target that no precision at hand brings near enough.
        """
        scratch = staging / SCRATCH
        with writing(staging):
            scratch.mkdir()
        try:
            if set(self.config.targets) != {"torch"}:
                self._export(scratch)
            if self.config.int8:
                self._quantise(scratch, staging)
            return self._until_it_passes(scratch, staging, manifest)
        finally:
            shutil.rmtree(scratch)

    def _export(self, scratch: Path) -> None:
        mask = self.reference.focus_logits.shape[-1]
        with self.progress("exporting the classifier"):
            save_checked(classifier_onnx(self.classifier, mask), scratch / CLASSIFIER_ONNX)
        if "tensorrt" in self.config.targets and self.config.trt_attention == "plugin":
            from medfocus.export.tensorrt.plugin_graph import plugin_classifier_onnx

            with self.progress("exporting the plugin's graph"):
                save(plugin_classifier_onnx(self.classifier, mask), scratch / PLUGIN_ONNX)
        with self.progress("exporting the segmenter"):
            save_checked(segmenter_onnx(self.segmenter), scratch / SEGMENTER_ONNX)

    def _quantise(self, scratch: Path, staging: Path) -> None:
        from medfocus.export.openvino.quantise import (  # what it imports is large
            focus_logits,
            quantise,
        )

        count = INT8_IMAGES["segmenter"]
        segmenter = staging / INT8["segmenter"]
        with self.progress("quantising the segmenter"):
            feeds = self._feeds("segmenter", self.calibration, count)
            quantise(scratch / ONNX["segmenter"], segmenter, list(feeds))
        # Each image's own masks: another's steer CLIP to where its attention would never be, and
        # the ranges found there cost `tiny` two of a hundred labels.
        count = INT8_IMAGES["classifier"]
        with self.progress("segmenting to calibrate"):
            masks = focus_logits(segmenter, self._feeds("segmenter", self.calibration, count))
        with self.progress("quantising the classifier"):
            feeds = self._feeds("classifier", self.calibration, count, masks)
            quantise(
                scratch / ONNX["classifier"],
                staging / INT8["classifier"],
                list(feeds),
                spare_last_layer=True,
            )

    def _until_it_passes(self, scratch: Path, staging: Path, manifest: Manifest) -> Manifest:
        backends, blocks, step = self.config.backends, list[str](), 1
        order: list[str] | None = None
        written: Precision | None = None
        parity: dict[str, Parity] = {}
        while True:
            # Without ONNX there are no types to tell of, and PyTorch's autocast has its own policy.
            writes_onnx = _reads(backends, SEGMENTER_ONNX)
            precision = Precision(self.config.dtype)
            if writes_onnx:
                precision = policy(self.config.dtype, blocks)
            manifest = replace(manifest, precision=precision, backends=backends)
            if precision != written:
                # Graphs in int8 are others, made once.
                parity = {name: parity[name] for name in parity if backends[name] == "int8"}
                written = precision
                if writes_onnx:
                    self._write_graphs(scratch, staging, manifest)
            missed = self._check(scratch, staging, manifest, parity)
            if not missed:
                thresholds = {name: self._thresholds(backends[name]) for name in parity}
                return replace(manifest, parity=parity, thresholds=thresholds)
            name, figures = missed
            if name == "openvino" and backends[name] == "bf16":
                # OpenVINO's bf16 is a hint that knows no blocks.
                backends = {**backends, name: "fp32"}
                continue
            left: list[str] = []
            if writes_onnx and backends[name] in ("fp16", "bf16"):
                order = self._by_range(scratch) if order is None else order
                blamed = _blamed(figures)
                left = [b for b in order if b not in blocks and b.startswith(blamed)]
            if left:
                blocks += left[:step]
                step *= 2
                continue
            error = _too_far(name, backends[name], figures)
            asked_for = not self.config.optional or backends[name] == "int8"
            if asked_for or len(backends) == 1:
                raise error
            target = next(key for key, (backend, _) in TARGETS.items() if backend == name)
            self.progress.say(f"target {target} left out: {error.problem}")
            backends = self._without(name, backends, staging)
            blocks, step = [], 1  # they may have been spared for its sake alone

    def _without(
        self, name: str, backends: Mapping[str, ComputePrecision], staging: Path
    ) -> dict[str, ComputePrecision]:
        """The other backends; what they do not read is deleted."""
        others = {other: backends[other] for other in backends if other != name}
        with writing(staging):
            for file in files_of(name, backends[name]):
                if not _reads(others, file):
                    (staging / file).unlink(missing_ok=True)
            if name == "tensorrt":
                shutil.rmtree(staging / PLANS)
        return others

    def _write_graphs(self, scratch: Path, staging: Path, manifest: Manifest) -> None:
        with self.progress(f"writing {manifest.precision.dtype} graphs"):
            for graph, file in ONNX.items():
                model = lower(ir.load(scratch / file), graph, manifest.precision)
                save_checked(model, staging / file)

    def _build_plans(self, scratch: Path, staging: Path, manifest: Manifest) -> None:
        from medfocus.export.tensorrt.build_plans import build_plans

        attention = self.config.trt_attention
        classifier = None
        if attention == "plugin":
            classifier = scratch / "plugin.onnx"
            model = ir.load(scratch / PLUGIN_ONNX)
            save(lower(model, "classifier", manifest.precision), classifier)
        with self.progress.builder() as progress:
            build_plans(
                staging,
                self.config.buckets,
                manifest.prompts,
                classifier=classifier,
                attention=attention,
                progress=progress,
            )

    def _check(
        self, scratch: Path, staging: Path, manifest: Manifest, parity: dict[str, Parity]
    ) -> tuple[str, tuple[str, ...]] | None:
        """Check every backend that `parity` lacks, and put it there if it passes.

        Returns:
            The first that misses, and what it missed.
        """
        for name, precision in manifest.backends.items():
            if name in parity or (name, precision) == ("torch", "fp32"):  # the reference itself
                continue
            if name == "tensorrt":  # the last, for it takes minutes to build
                self._build_plans(scratch, staging, manifest)
            with self.progress(f"loading {name}"):
                backend = load_backend(unpublished(staging, manifest), name, "auto")
            with closing(backend):
                found = self._compare(backend, f"checking {name} in {precision}")
            if missed := self._thresholds(precision).missed(found):
                return name, missed
            parity[name] = found
        return None

    def _compare(self, backend: Backend, stage: str) -> Parity:
        plan = list(batches(len(self.images.prepared), self.config.buckets))
        with self.progress(stage, sum(map(len, plan))) as advance:
            found = answers(backend, self.images, plan, self.reference, advance)
        alone = mask_iou_alone(backend, self.images, found, self.reference, plan)
        return compare(found, self.reference, plan, alone, backend.device)

    def _thresholds(self, precision: ComputePrecision) -> Thresholds:
        """Of the graphs' type or the runtime's precision, whichever is the coarser."""
        return THRESHOLDS[max(self.config.dtype, precision, key=list(THRESHOLDS).index)]

    def _by_range(self, scratch: Path) -> list[str]:
        """All blocks, those with the largest activations first."""
        ranges: dict[str, float] = {}
        for graph, file in ONNX.items():
            with self.progress(f"measuring ranges of the {graph}"):
                masks = self.reference.focus_logits
                feeds = self._feeds(graph, self.images, RANGE_IMAGES, masks)
                ranges |= activation_ranges(scratch / file, graph, list(feeds), scratch)
        return sorted(ranges, key=lambda block: -ranges[block])

    def _feeds(
        self, graph: str, images: Images, count: int, masks: Array | None = None
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """A graph's inputs by name, an image each; focus logits (B, h, w) for the classifier's."""
        for row in range(min(count, len(images.prepared))):
            batch = images.batch([row])
            if graph == "segmenter":
                yield {"image": batch.segmenter, "points": batch.points, "labels": batch.labels}
            else:
                assert masks is not None
                yield {
                    "image": batch.classifier,
                    "focus_logits": masks[[row]],
                    "rows": batch.rows,
                    "cols": batch.cols,
                }


def reference_answers(
    reference: Reference,
    images: Images,
    progress: ProgressReporter,
    stage: str = "PyTorch's answers in float32",
) -> Answers:
    """What PyTorch in float32 answers, of all images in their order."""
    # One by one: larger batches take more memory, and no less time on a CPU.
    plan = [[row] for row in range(len(images.prepared))]
    with progress(stage, len(plan)) as advance:
        return answers(reference, images, plan, advance=advance)


def _reads(backends: Mapping[str, ComputePrecision], file: str) -> bool:
    return any(file in files_of(name, precision) for name, precision in backends.items())


def _blamed(figures: Sequence[str]) -> tuple[str, ...]:
    """The graphs that missed: the labels alone may be either's."""
    names = [figure.split()[0] for figure in figures]
    segmenter = any(name in SEGMENTER_FIGURES for name in names)
    classifier = any(name not in (*SEGMENTER_FIGURES, "top1_agreement") for name in names)
    if segmenter == classifier:
        return "segmenter", "classifier"
    return ("segmenter",) if segmenter else ("classifier",)


def _too_far(name: str, precision: str, figures: Sequence[str]) -> ParityError:
    return ParityError(
        f"{name} in {precision}",
        "its answers are too far from the float32 model's: " + ", ".join(figures),
        "export with more precision, or name the other targets with --targets",
    )
