"""ONNX graphs to TensorRT plans, for the GPU and the TensorRT that are there.

One optimisation profile a bucket, tuned for that batch size and used for it and all that are
larger than the bucket before: TensorRT chooses kernels for a profile's `opt` shape, and the best
ones for a batch of 32 are not those for a single image. That costs a tuning run a bucket.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import onnx
from rich.progress import Progress

from medfocus.engine.artifact.layout import CLASSIFIER_ONNX, SEGMENTER_ONNX
from medfocus.engine.artifact.writing import writing
from medfocus.engine.backends.tensorrt.library import (
    CLASSIFIER_PLAN,
    SEGMENTER_PLAN,
    plan_folder,
    require_tensorrt,
)
from medfocus.engine.runtime import cuda
from medfocus.settings import Prompts

Attention = Literal["native", "plugin"]
Shape = tuple[int, ...]
Profile = dict[str, tuple[Shape, Shape, Shape]]  # input -> least, tuned and greatest shape
Dimensions = tuple[int | str, ...]  # sizes; names of those that vary

# The most points that a caller's own prompt may have, a box's two corners among them.
MOST_POINTS = 16


def build_plans(
    staging: Path,
    buckets: Sequence[int],
    prompts: Prompts,
    *,
    classifier: Path | None = None,
    attention: Attention = "native",
    progress: Progress | None = None,
) -> str:
    """Build both plans of an engine directory; minutes on a GPU, which should be idle.

    Args:
        staging: holds the segmenter's and the classifier's ONNX; `plans/<folder>/` is added.
        buckets: ascending batch sizes.
        prompts: the zero-shot prompts, which the segmenter is tuned for.
        classifier: the classifier's graph if another than the directory's, as for `plugin`.
        attention: `plugin` where that graph has `medfocus::masked_attention` nodes.
        progress: shows the builder's phases and steps.

    Returns:
        The plans' folder, relative to `staging`.

    Raises:
        InputError: TensorRT or CUDA's bindings are not installed.
        DeviceError: there is no GPU, or it fails.
        EngineDirectoryError: TensorRT refuses a graph or cannot build it, with all that it says.
    """
    version = require_tensorrt()
    architecture = cuda.architecture()
    folder = plan_folder(architecture, version)
    from medfocus.export.tensorrt.builder import Builder  # it needs TensorRT to be imported

    builder = Builder(timing_cache(architecture, version), attention == "plugin", progress)
    if attention == "plugin":
        from medfocus.export.tensorrt.plugin import register

        register(architecture)
    points, given = len(prompts.points[0]), len(prompts.points)
    sizes = {"prompts": (1, given, given), "points": (1, points, max(points, MOST_POINTS))}
    for source, name in (
        (staging / SEGMENTER_ONNX, SEGMENTER_PLAN),
        (classifier or staging / CLASSIFIER_ONNX, CLASSIFIER_PLAN),
    ):
        plan = builder.build(source, profiles(input_dimensions(source), buckets, sizes))
        with writing(staging / folder):
            (staging / folder).mkdir(parents=True, exist_ok=True)
            (staging / folder / name).write_bytes(plan)
    return folder


def input_dimensions(path: Path) -> dict[str, Dimensions]:
    """A graph's inputs with their dimensions, names standing for those that vary."""
    graph = onnx.load(path, load_external_data=False).graph
    return {
        value.name: tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in graph.input
    }


def profiles(
    inputs: Mapping[str, Dimensions],
    buckets: Sequence[int],
    sizes: Mapping[str, tuple[int, int, int]],
) -> list[Profile]:
    """One profile a bucket: from one more than the bucket before, tuned for the bucket itself.

    Args:
        inputs: of the graph; the varying dimension `batch` is the bucket's.
        buckets: ascending.
        sizes: least, tuned and greatest size of the other varying dimensions, by name.
    """
    made = []
    for before, bucket in zip((0, *buckets), buckets, strict=False):
        ranges = {**sizes, "batch": (before + 1, bucket, bucket)}
        made.append(
            {name: _shapes(dimensions, ranges) for name, dimensions in inputs.items()},
        )
    return made


def _shapes(
    dimensions: Dimensions, ranges: Mapping[str, tuple[int, int, int]]
) -> tuple[Shape, Shape, Shape]:
    all_three = [ranges[d] if isinstance(d, str) else (d, d, d) for d in dimensions]
    least, tuned, greatest = zip(*all_three, strict=True)
    return least, tuned, greatest


def timing_cache(architecture: int, version: str) -> Path:
    """Where measured kernel times are kept between builds; no part of an engine."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "medfocus" / f"tensorrt-sm{architecture}-{version}.timing"
