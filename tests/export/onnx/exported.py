"""The tiny PyTorch graphs with random weights, and their export."""

from pathlib import Path

import torch

from medfocus.export.onnx.graphs import classifier_onnx, save_checked, segmenter_onnx
from medfocus.models.graphs import ClassifierGraph, SegmenterGraph
from medfocus.models.presets import CLIP_MEAN, CLIP_STD
from medfocus.settings import FocusMode, Selection
from tests.conftest import random_bundle

MODES: tuple[FocusMode, ...] = ("none", "overlay", "soft", "hard")
MASK = 64


def segmenter(policy: str = "best") -> SegmenterGraph:
    bundle = random_bundle()
    selection = Selection(
        policy=policy,  # type: ignore[arg-type]
        min_area=0.0,
        max_area=1.0,
        min_score=0.01,
    )
    return SegmenterGraph(bundle.segmenter, selection).eval()


def classifier(mode: FocusMode) -> ClassifierGraph:
    bundle = random_bundle(mode)
    head = bundle.head
    strength = torch.linspace(0.2, 1.0, bundle.clip.layers)
    return ClassifierGraph(
        bundle.clip,
        bundle.focus,
        head.class_embeddings,
        head.logit_scale,
        strength,
        CLIP_MEAN,
        CLIP_STD,
    ).eval()


def export(graph: str, kind: str, path: Path) -> Path:
    """Write the segmenter with a selection policy, or the classifier with a focus mode."""
    if graph == "segmenter":
        save_checked(segmenter_onnx(segmenter(kind)), path)
    else:
        save_checked(classifier_onnx(classifier(kind), MASK), path)  # type: ignore[arg-type]
    return path
