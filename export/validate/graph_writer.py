"""Writes the two graphs in every form that the targets read."""

from collections.abc import Iterator
from dataclasses import dataclass
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
from medfocus.engine.artifact.precision import Precision
from medfocus.engine.runtime.graphs import Array
from medfocus.export.config import ExportConfig
from medfocus.export.onnx.activation_ranges import activation_ranges
from medfocus.export.onnx.graphs import classifier_onnx, save, save_checked, segmenter_onnx
from medfocus.export.onnx.half_precision import lower
from medfocus.export.progress import ProgressReporter
from medfocus.export.validate.comparison import Images
from medfocus.models.graphs import ClassifierGraph, SegmenterGraph

PLUGIN_FP32_ONNX, PLUGIN_ONNX = "plugin-fp32.onnx", "plugin.onnx"
ONNX = {"segmenter": SEGMENTER_ONNX, "classifier": CLASSIFIER_ONNX}
INT8 = {"segmenter": SEGMENTER_INT8, "classifier": CLASSIFIER_INT8}
# Images from which activation ranges are measured. NNCF runs its images several times, and at 1024²
# needs seconds for each.
RANGE_IMAGES, INT8_IMAGES = 8, {"classifier": 128, "segmenter": 16}


@dataclass(frozen=True, eq=False)
class GraphWriter:
    """Writes graphs for an export.

    Attributes:
        segmenter, classifier: the PyTorch graphs.
        images: images from which activation ranges are measured.
        focus_logits: (N, h, w), the float32 reference's for `images`.
        calibration: images from which int8 takes its ranges.
        config: what to build.
        progress: reports each stage.
        scratch: a folder for intermediate files, among them both graphs in float32.
        staging: the engine directory that is being built.
    """

    segmenter: SegmenterGraph
    classifier: ClassifierGraph
    images: Images
    focus_logits: Array
    calibration: Images
    config: ExportConfig
    progress: ProgressReporter
    scratch: Path
    staging: Path

    def export(self) -> None:
        """Export both graphs in float32 to `scratch`."""
        mask = self.focus_logits.shape[-1]
        with self.progress("exporting the classifier"):
            save_checked(classifier_onnx(self.classifier, mask), self.scratch / CLASSIFIER_ONNX)
        if "tensorrt" in self.config.targets and self.config.trt_attention == "plugin":
            from medfocus.export.tensorrt.plugin_graph import plugin_classifier_onnx

            with self.progress("exporting the plugin's graph"):
                save(plugin_classifier_onnx(self.classifier, mask), self.scratch / PLUGIN_FP32_ONNX)
        with self.progress("exporting the segmenter"):
            save_checked(segmenter_onnx(self.segmenter), self.scratch / SEGMENTER_ONNX)

    def quantise(self) -> None:
        """Write both graphs in int8."""
        # Imported here, since NNCF is large.
        from medfocus.export.openvino.quantise import focus_logits, quantise

        count = INT8_IMAGES["segmenter"]
        segmenter = self.staging / INT8["segmenter"]
        with self.progress("quantising the segmenter"):
            feeds = self._feeds("segmenter", self.calibration, count)
            quantise(self.scratch / ONNX["segmenter"], segmenter, list(feeds))
        # Each image with its own mask: with another's, CLIP attends where it never would, and the
        # ranges measured then cost `tiny` two of a hundred labels.
        count = INT8_IMAGES["classifier"]
        with self.progress("segmenting to calibrate"):
            masks = focus_logits(segmenter, self._feeds("segmenter", self.calibration, count))
        with self.progress("quantising the classifier"):
            feeds = self._feeds("classifier", self.calibration, count, masks)
            quantise(
                self.scratch / ONNX["classifier"],
                self.staging / INT8["classifier"],
                list(feeds),
                exclude_last_layer=True,
            )

    def write(self, precision: Precision) -> None:
        """Write both ONNX graphs in the types of a precision policy."""
        with self.progress(f"writing {precision.dtype} graphs"):
            for graph, file in ONNX.items():
                model = lower(ir.load(self.scratch / file), graph, precision)
                save_checked(model, self.staging / file)

    def build_plans(self, manifest: Manifest) -> None:
        """Build TensorRT's plans from the ONNX graphs."""
        from medfocus.export.tensorrt.build_plans import build_plans

        attention = self.config.trt_attention
        classifier = None
        if attention == "plugin":
            classifier = self.scratch / PLUGIN_ONNX
            model = ir.load(self.scratch / PLUGIN_FP32_ONNX)
            save(lower(model, "classifier", manifest.precision), classifier)
        with self.progress.builder() as progress:
            build_plans(
                self.staging,
                self.config.buckets,
                manifest.prompts,
                classifier=classifier,
                attention=attention,
                progress=progress,
            )

    def blocks_by_range(self) -> list[str]:
        """All blocks of both graphs, those with the largest activations first."""
        ranges: dict[str, float] = {}
        for graph, file in ONNX.items():
            with self.progress(f"measuring ranges of the {graph}"):
                feeds = self._feeds(graph, self.images, RANGE_IMAGES, self.focus_logits)
                ranges |= activation_ranges(self.scratch / file, graph, list(feeds), self.scratch)
        return sorted(ranges, key=lambda block: -ranges[block])

    def _feeds(
        self, graph: str, images: Images, count: int, masks: Array | None = None
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """A graph's inputs by name, one image each; the classifier's need masks (N, h, w)."""
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
