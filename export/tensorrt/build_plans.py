"""Builds TensorRT plans from the ONNX graphs, for this machine's GPU and TensorRT version."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

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
from medfocus.export.tensorrt.profiles import MOST_POINTS, input_dimensions, profiles
from medfocus.files.user_folders import cache_folder
from medfocus.settings import Prompts

Attention = Literal["native", "plugin"]


def build_plans(
    staging: Path,
    buckets: Sequence[int],
    prompts: Prompts,
    *,
    classifier: Path | None = None,
    attention: Attention = "native",
    progress: Progress | None = None,
) -> str:
    """Build both plans of an engine directory; takes minutes on a GPU, which should be idle.

    Args:
        staging: holds the segmenter's and the classifier's ONNX; `plans/<folder>/` is added.
        buckets: ascending batch sizes.
        prompts: the zero-shot prompts, for which the segmenter is tuned.
        classifier: the classifier's graph if not the directory's, as for `plugin`.
        attention: `plugin` where that graph has `medfocus::masked_attention` nodes.
        progress: shows the builder's phases and steps.

    Returns:
        The plans' folder, relative to `staging`.

    Raises:
        InputError: TensorRT or CUDA's bindings are not installed.
        DeviceError: there is no GPU, or it fails.
        EngineDirectoryError: TensorRT cannot parse or build a graph (`engine.build_failed`); its
            messages are included.
    """
    version = require_tensorrt()
    architecture = cuda.architecture()
    folder = plan_folder(architecture, version)
    from medfocus.export.tensorrt.builder import Builder  # imports TensorRT

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


def timing_cache(architecture: int, version: str) -> Path:
    """The cache of measured kernel times between builds; not part of an engine."""
    return cache_folder() / f"tensorrt-sm{architecture}-{version}.timing"
