"""Builds an engine directory from models, head and settings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save

import medfocus
from medfocus.engine.artifact.layout import (
    CHECK_IMAGES,
    CLASSIFIER_WEIGHTS,
    HEAD_WEIGHTS,
    SEGMENTER_WEIGHTS,
)
from medfocus.engine.artifact.manifest import ClipModel, Manifest, Models, Producer, Sam2Model
from medfocus.engine.artifact.parity import Parity
from medfocus.engine.artifact.precision import Precision
from medfocus.engine.artifact.writing import write_engine_directory, write_manifest, writing
from medfocus.engine.checking.check_images import to_bytes
from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import prepare
from medfocus.errors import InputError
from medfocus.export.config import ExportConfig
from medfocus.export.progress import ProgressReporter
from medfocus.export.validate.check_images import confirmed, draw
from medfocus.export.validate.comparison import SEGMENTER_SIZE, Images
from medfocus.models.clip.encoder import FocusCLIP
from medfocus.models.graphs import ClassifierGraph, SegmenterGraph
from medfocus.models.head import Head, graph_tensors
from medfocus.models.presets import ZERO_SHOT, Preset
from medfocus.models.sam2.segmenter import Segmenter
from medfocus.settings import Focus, Prompts, Selection


@dataclass(frozen=True, eq=False)
class ModelBundle:
    """The models of an engine directory, with their head and settings.

    Attributes:
        preset: names the architectures and CLIP's preprocessing.
        clip, segmenter: the models with their weights; `*_sha256`: of their weight files.
        head: classes, class embeddings, strengths.
        focus, selection, prompts: the settings.
        class_prompts: the templates from whose texts the head's class embeddings were made; none
            if they were trained.
        native_segmenter: the same SAM2 at its architecture's image size, where `segmenter` has
            another size.
    """

    preset: Preset
    clip: FocusCLIP
    clip_sha256: str
    segmenter: Segmenter
    segmenter_sha256: str
    head: Head
    focus: Focus
    selection: Selection
    prompts: Prompts = ZERO_SHOT
    class_prompts: tuple[str, ...] = ()
    native_segmenter: Segmenter | None = None


def build(
    target: Path,
    bundle: ModelBundle,
    config: ExportConfig | None = None,
    images: Sequence[SourceImage] = (),
    calibration: Sequence[SourceImage] = (),
    *,
    force: bool = False,
    progress: ProgressReporter | None = None,
) -> Manifest:
    """Build and check an engine directory; it is written completely or not at all.

    Args:
        target: the directory.
        bundle: the models and their settings.
        config: what to build; None for PyTorch in float32, which is the reference itself.
        images: images for the parity gate, at least as many as the largest bucket.
        calibration: images from which int8 takes its ranges; `images` if there are none.
        force: replace an existing engine directory.
        progress: reports each stage; None reports nothing.

    Raises:
        InputError: the head was made for another CLIP (`head.model_mismatch`) or focus mode
            (`head.focus_mismatch`); too few images (`input.too_few_images`).
        ParityError: the outputs are too far from the float32 model's.
        EngineDirectoryError: `target` exists (without `force`) or cannot be written.
    """
    config, progress = config or ExportConfig(), progress or ProgressReporter()
    _check_head(bundle)
    with write_engine_directory(target, force=force) as staging:
        with progress("writing weights"):
            _write(staging / HEAD_WEIGHTS, save(bundle.head.tensors()))
            if "torch" in config.targets:
                for name, module in (
                    (SEGMENTER_WEIGHTS, bundle.segmenter),
                    (CLASSIFIER_WEIGHTS, bundle.clip),
                ):
                    _write(staging / name, save(_contiguous(module)))
        manifest = _manifest(bundle, config)
        graphs = _graphs(bundle, manifest)
        resized = bundle.native_segmenter is not None and bundle.focus.mode != "none"
        if resized or config.backends != {"torch": "fp32"}:
            calibration = (calibration or images) if config.int8 else ()
            manifest = _checked(
                staging, manifest, bundle, graphs, config, images, calibration, progress
            )
        drawn = draw(*graphs, manifest, progress)
        checks, speeds = confirmed(staging, manifest, drawn, progress)
        manifest = replace(manifest, speeds=speeds)
        if checks:
            _write(staging / CHECK_IMAGES, to_bytes(checks))
        with progress("hashing"):
            return write_manifest(staging, manifest)


def _write(path: Path, data: bytes) -> None:
    with writing(path):
        path.write_bytes(data)


def _checked(
    staging: Path,
    manifest: Manifest,
    bundle: ModelBundle,
    graphs: tuple[SegmenterGraph, ClassifierGraph],
    config: ExportConfig,
    images: Sequence[SourceImage],
    calibration: Sequence[SourceImage],
    progress: ProgressReporter,
) -> Manifest:
    """Write and check everything except PyTorch in float32; the manifest with the results."""
    # Imported here: PyTorch in float32 can be exported without ONNX's packages.
    from medfocus.export.validate.gate import Gate
    from medfocus.export.validate.segmenter_size import check_segmenter_size

    if len(images) < config.buckets[-1]:
        raise InputError(
            "images",
            f"{len(images)} do not fill a batch of {config.buckets[-1]}",
            "check on more images, or export for smaller batches",
            code="input.too_few_images",
        )
    steered = manifest.focus.mode != "none"
    segmenter, classifier = graphs
    gate = Gate.prepare(
        segmenter,
        classifier,
        _prepared(images, manifest),
        _prepared(calibration, manifest),
        config,
        progress,
    )
    sizes: dict[str, Parity] = {}
    if bundle.native_segmenter is not None and steered:
        native = SegmenterGraph(bundle.native_segmenter, bundle.selection).eval()
        sizes["segmenter size"] = check_segmenter_size(
            native, classifier, gate.reference, images, manifest, progress
        )
    manifest = gate.build(staging, manifest)
    return replace(
        manifest,
        parity={**manifest.parity, **sizes},
        thresholds={**manifest.thresholds, **dict.fromkeys(sizes, SEGMENTER_SIZE)},
    )


def _prepared(images: Sequence[SourceImage], manifest: Manifest) -> Images:
    preprocessing, focus = manifest.preprocessing, manifest.focus
    prepared = [prepare(image, preprocessing, focus, manifest.prompts) for image in images]
    return Images(prepared, preprocessing, steered=focus.mode != "none")


def _graphs(bundle: ModelBundle, manifest: Manifest) -> tuple[SegmenterGraph, ClassifierGraph]:
    normalisation = manifest.preprocessing.classifier
    classifier = ClassifierGraph(
        bundle.clip,
        bundle.focus,
        mean=normalisation.mean,
        std=normalisation.std,
        **graph_tensors(bundle.head.tensors()),
    )
    return SegmenterGraph(bundle.segmenter, bundle.selection).eval(), classifier.eval()


def _check_head(bundle: ModelBundle) -> None:
    head, architecture = bundle.head, bundle.preset.clip
    problem, code = None, "head.model_mismatch"
    if head.clip != architecture:
        problem = f"was made for {head.clip}, and this engine has {architecture}"
    elif head.clip_sha256 != bundle.clip_sha256:
        problem = f"was made for other weights of {head.clip}"
    elif head.focus != bundle.focus.mode:
        problem = f"was made with focus {head.focus}, and this engine has {bundle.focus.mode}"
        code = "head.focus_mismatch"
    if problem is not None:
        hint = "make the head with this engine's CLIP and focus mode"
        raise InputError("head", problem, hint, code=code)


def _contiguous(module: FocusCLIP | Segmenter) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in module.state_dict().items()}


def _manifest(bundle: ModelBundle, config: ExportConfig) -> Manifest:
    """The manifest before the gate, which fills in precision, parity and thresholds."""
    return Manifest(
        producer=Producer("medfocus", medfocus.__version__),
        models=Models(
            ClipModel(bundle.preset.clip, bundle.clip_sha256),
            Sam2Model(bundle.preset.sam2, bundle.segmenter.image_size, bundle.segmenter_sha256),
        ),
        precision=Precision(),
        focus=bundle.focus,
        selection=bundle.selection,
        prompts=bundle.prompts,
        preprocessing=bundle.preset.preprocessing(bundle.clip, bundle.segmenter),
        classes=bundle.head.classes,
        class_prompts=bundle.class_prompts,
        buckets=config.buckets,
        files={},
        backends=config.backends,
        parity={},
        thresholds={},
        join=config.join,
        speeds={},
    )
