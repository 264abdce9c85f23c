"""The parity gate: graphs are written, checked, and made more precise until they pass."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from medfocus.engine.artifact.layout import SEGMENTER_ONNX
from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.artifact.parity import SEGMENTER_FIGURES, THRESHOLDS, Parity, Thresholds
from medfocus.engine.artifact.precision import ComputePrecision, Precision
from medfocus.engine.artifact.writing import unpublished, writing
from medfocus.engine.backends.base import Backend
from medfocus.engine.backends.registry import load_backend
from medfocus.engine.backends.tensorrt.library import PLANS
from medfocus.errors import ParityError
from medfocus.export.config import TARGETS, ExportConfig, files_of
from medfocus.export.onnx.half_precision import policy
from medfocus.export.progress import ProgressReporter
from medfocus.export.validate.comparison import (
    Images,
    Outputs,
    Reference,
    batches,
    compare,
    mask_iou_alone,
    run_graphs,
)
from medfocus.export.validate.graph_writer import GraphWriter
from medfocus.models.graphs import ClassifierGraph, SegmenterGraph

SCRATCH = "scratch"


@dataclass(frozen=True, eq=False)
class Gate:
    """The float32 graphs, and their outputs for the images.

    Attributes:
        segmenter, classifier: the PyTorch graphs.
        images: the images on which everything is compared.
        calibration: images from which int8 takes its ranges.
        reference: the float32 outputs for `images`.
        config: what to build.
        progress: reports each stage.
    """

    segmenter: SegmenterGraph
    classifier: ClassifierGraph
    images: Images
    calibration: Images
    reference: Outputs
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
        reference = reference_outputs(Reference(segmenter, classifier), images, progress)
        return cls(segmenter, classifier, images, calibration, reference, config, progress)

    def build(self, staging: Path, manifest: Manifest) -> Manifest:
        """Write the graphs of every target into `staging`, and check each of them.

        Returns:
            The manifest with precision, backends, parity and thresholds filled in.

        Raises:
            ParityError: a target does not pass in any available precision.
        """
        scratch = staging / SCRATCH
        with writing(staging):
            scratch.mkdir()
        writer = GraphWriter(
            self.segmenter,
            self.classifier,
            self.images,
            self.reference.focus_logits,
            self.calibration,
            self.config,
            self.progress,
            scratch,
            staging,
        )
        try:
            if set(self.config.targets) != {"torch"}:
                writer.export()
            if self.config.int8:
                writer.quantise()
            return self.until_it_passes(writer, manifest)
        finally:
            shutil.rmtree(scratch)

    def until_it_passes(self, writer: GraphWriter, manifest: Manifest) -> Manifest:
        """Write and check the graphs until every backend passes.

        Where one fails in half precision, blocks stay in float32, those with the largest
        activations first, in steps that double. OpenVINO's bf16 falls back to float32. A backend
        that still fails is left out if it is optional; otherwise the export fails.

        Raises:
            ParityError: a backend that is not optional, or the last one, does not pass.
        """
        backends, blocks, step = self.config.backends, list[str](), 1
        by_range: list[str] | None = None
        written: Precision | None = None
        parity: dict[str, Parity] = {}
        while True:
            # Without ONNX no types are written: PyTorch's autocast has its own policy.
            writes_onnx = _reads(backends, SEGMENTER_ONNX)
            precision = Precision(self.config.dtype)
            if writes_onnx:
                precision = policy(self.config.dtype, blocks)
            manifest = replace(manifest, precision=precision, backends=backends)
            if precision != written:
                # The int8 graphs do not depend on it: they are made and checked once.
                parity = {name: parity[name] for name in parity if backends[name] == "int8"}
                written = precision
                if writes_onnx:
                    writer.write(precision)
            failure = self._check(writer, manifest, parity)
            if not failure:
                thresholds = {name: self._thresholds(backends[name]) for name in parity}
                return replace(manifest, parity=parity, thresholds=thresholds)
            name, figures = failure
            if name == "openvino" and backends[name] == "bf16":
                # OpenVINO's bf16 is a hint for the whole graph, not for blocks.
                backends = {**backends, name: "fp32"}
                continue
            candidates: list[str] = []
            if writes_onnx and backends[name] in ("fp16", "bf16"):
                by_range = writer.blocks_by_range() if by_range is None else by_range
                failed = _failed_graphs(figures)
                candidates = [b for b in by_range if b not in blocks and b.startswith(failed)]
            if candidates:
                blocks += candidates[:step]
                step *= 2
                continue
            error = _too_far(name, backends[name], figures)
            required = not self.config.optional or backends[name] == "int8"
            if required or len(backends) == 1:
                raise error
            target = next(key for key, (backend, _) in TARGETS.items() if backend == name)
            self.progress.say(f"target {target} left out: {error.problem}")
            backends = _without(name, backends, writer.staging)
            blocks, step = [], 1  # they may have been needed only for this backend

    def _check(
        self, writer: GraphWriter, manifest: Manifest, parity: dict[str, Parity]
    ) -> tuple[str, tuple[str, ...]] | None:
        """Check every backend that `parity` lacks, and add it there if it passes.

        Returns:
            The first backend that fails, and the figures that miss their limits.
        """
        for name, precision in manifest.backends.items():
            if name in parity or (name, precision) == ("torch", "fp32"):  # the reference itself
                continue
            if name == "tensorrt":  # the last, since it takes minutes to build
                writer.build_plans(manifest)
            with self.progress(f"loading {name}"):
                backend = load_backend(unpublished(writer.staging, manifest), name, "auto")
            with closing(backend):
                found = self._compare(backend, f"checking {name} in {precision}")
            if missed := self._thresholds(precision).missed(vars(found)):
                return name, missed
            parity[name] = found
        return None

    def _compare(self, backend: Backend, stage: str) -> Parity:
        batch_rows = list(batches(len(self.images.prepared), self.config.buckets))
        with self.progress(stage, sum(map(len, batch_rows))) as advance:
            found = run_graphs(backend, self.images, batch_rows, self.reference, advance)
        iou = mask_iou_alone(backend, self.images, found, self.reference, batch_rows)
        return compare(found, self.reference, batch_rows, iou, backend.device)

    def _thresholds(self, precision: ComputePrecision) -> Thresholds:
        """The limits of the graphs' dtype or of the runtime's precision, whichever is coarser."""
        return THRESHOLDS[max(self.config.dtype, precision, key=list(THRESHOLDS).index)]


def reference_outputs(
    reference: Reference,
    images: Images,
    progress: ProgressReporter,
    stage: str = "float32 reference in PyTorch",
) -> Outputs:
    """The float32 PyTorch outputs for all images, in their order."""
    # One by one: on a CPU, larger batches need more memory and are not faster.
    batch_rows = [[row] for row in range(len(images.prepared))]
    with progress(stage, len(batch_rows)) as advance:
        return run_graphs(reference, images, batch_rows, advance=advance)


def _without(
    name: str, backends: Mapping[str, ComputePrecision], staging: Path
) -> dict[str, ComputePrecision]:
    """The other backends; files that none of them reads are deleted."""
    others = {other: backends[other] for other in backends if other != name}
    with writing(staging):
        for file in files_of(name, backends[name]):
            if not _reads(others, file):
                (staging / file).unlink(missing_ok=True)
        if name == "tensorrt":
            shutil.rmtree(staging / PLANS)
    return others


def _reads(backends: Mapping[str, ComputePrecision], file: str) -> bool:
    return any(file in files_of(name, precision) for name, precision in backends.items())


def _failed_graphs(figures: Sequence[str]) -> tuple[str, ...]:
    """The graphs whose figures miss their limits; labels by themselves may be due to either."""
    names = [figure.split()[0] for figure in figures]
    segmenter = any(name in SEGMENTER_FIGURES for name in names)
    classifier = any(name not in (*SEGMENTER_FIGURES, "top1_agreement") for name in names)
    if segmenter == classifier:
        return "segmenter", "classifier"
    return ("segmenter",) if segmenter else ("classifier",)


def _too_far(name: str, precision: str, figures: Sequence[str]) -> ParityError:
    return ParityError(
        f"{name} in {precision}",
        "its outputs are too far from the float32 model's: " + ", ".join(figures),
        "export with more precision, or name the other targets with --targets",
    )
