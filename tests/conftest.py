"""Engine directories for several test modules; without a GPU, Triton runs in its interpreter."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined, so before our imports

from medfocus.export.config import ExportConfig
from medfocus.export.engine_directory import ModelBundle, build
from medfocus.export.validate.images import phantoms
from medfocus.models.clip.architecture import build_vision_tower
from medfocus.models.clip.encoder import FocusCLIP
from medfocus.models.head import Head, uniform_strength
from medfocus.models.loading import TINY
from medfocus.models.presets import preset
from medfocus.models.sam2.segmenter import Segmenter
from medfocus.settings import Focus, FocusMode, Selection

OnnxFile = Callable[[str, str], Path]
CLASSES = ("first", "second", "third")


def random_bundle(mode: FocusMode = "soft") -> ModelBundle:
    """Tiny models with seeded random weights, and a selection that lets their masks pass."""
    torch.manual_seed(31)
    clip = FocusCLIP(build_vision_tower(TINY)).eval()
    segmenter = Segmenter(TINY).eval()
    # Untrained masks are nearly 0 everywhere; these have regions.
    for network in segmenter.sam_mask_decoder.output_hypernetworks_mlps:
        torch.nn.init.normal_(network.layers[-1].weight, std=3.0)
    head = Head(
        clip=TINY,
        clip_sha256="0" * 64,
        focus=mode,
        classes=CLASSES,
        class_embeddings=torch.randn(3, 128),
        logit_scale=torch.tensor(30.0),
        strength=uniform_strength(clip.layers),
    )
    return ModelBundle(
        preset=preset("tiny"),
        clip=clip,
        clip_sha256="0" * 64,
        segmenter=segmenter,
        segmenter_sha256="1" * 64,
        head=head,
        focus=Focus(mode=mode),
        selection=Selection(min_area=0.0, max_area=1.0, min_score=0.01),
    )


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> OnnxFile:
    """A function from a graph and its policy or mode to the file of its float32 ONNX.

    Each is exported once, which takes up to fifteen seconds.
    """
    from tests.export.onnx.exported import export

    folder = tmp_path_factory.mktemp("graphs")
    return cache(lambda graph, kind: export(graph, kind, folder / f"{graph}_{kind}.onnx"))


@pytest.fixture(scope="session")
def exported_engine(tmp_path_factory: pytest.TempPathFactory, onnx_file: OnnxFile) -> Path:
    """Like `engine_directory`, in float32 for every backend of the CPU; not to be changed.

    Without figures of speed, which would make it chance what `auto` takes.
    """
    import onnx_ir as ir

    from medfocus.export.validate import check_images, graph_writer

    path = tmp_path_factory.mktemp("engines") / "exported"
    config = ExportConfig("fp32", ("onnx", "openvino", "torch"), buckets=(1, 4))
    with pytest.MonkeyPatch.context() as patch:
        segmenter = onnx_file("segmenter", "best")
        patch.setattr(graph_writer, "segmenter_onnx", lambda _: ir.load(segmenter))
        patch.setattr(check_images, "measured_speed", lambda *_: None)
        build(path, random_bundle(), config, phantoms(8))
    return path


@pytest.fixture(scope="session")
def engine_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete engine directory of tiny models with random weights; not to be changed."""
    path = tmp_path_factory.mktemp("engines") / "random"
    build(path, random_bundle())
    return path
