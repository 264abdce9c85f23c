"""Models, head and settings to an engine directory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save

import medfocus
from medfocus.engine.artifact.layout import CLASSIFIER_WEIGHTS, HEAD_WEIGHTS, SEGMENTER_WEIGHTS
from medfocus.engine.artifact.manifest import ClipModel, Manifest, Models, Producer, Sam2Model
from medfocus.engine.artifact.parity import Parity
from medfocus.engine.artifact.precision import Precision
from medfocus.engine.artifact.writing import write_engine_directory, write_manifest, writing
from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import prepare
from medfocus.errors import InputError
from medfocus.export.config import ExportConfig
from medfocus.export.progress import ProgressReporter
from medfocus.export.validate.comparison import SEGMENTER_SIZE, Images
from medfocus.models.clip.encoder import FocusCLIP
from medfocus.models.graphs import ClassifierGraph, SegmenterGraph
from medfocus.models.head import Head, graph_tensors
from medfocus.models.presets import ZERO_SHOT, Preset
from medfocus.models.sam2.segmenter import Segmenter
from medfocus.settings import Focus, Selection


@dataclass(frozen=True, eq=False)
class ModelBundle:
    """What goes into an engine directory.

    Attributes:
        preset: names the architectures and CLIP's preprocessing.
        clip, segmenter: the models, with their weights; *_sha256: of the files they came from.
        head: classes, class embeddings, strengths.
        focus, selection: the settings.
        native_segmenter: the same SAM2 at its own image size, where `segmenter`'s is another.
    """

    preset: Preset
    clip: FocusCLIP
    clip_sha256: str
    segmenter: Segmenter
    segmenter_sha256: str
    head: Head
    focus: Focus
    selection: Selection
    native_segmenter: Segmenter | None = None


def build(
    target: Path,
    parts: ModelBundle,
    config: ExportConfig | None = None,
    images: Sequence[SourceImage] = (),
    calibration: Sequence[SourceImage] = (),
    *,
    force: bool = False,
    progress: ProgressReporter | None = None,
) -> Manifest:
    """Write an engine directory, checked, whole or not at all.

    Args:
        target: the directory.
        parts: the models and their settings.
        config: what to build; PyTorch in float32, which is the reference itself, when None.
        images: what everything else is checked on; as many as the largest bucket at least.
        calibration: what int8 takes its ranges from; `images` where there are none.
        force: replace an engine directory that is there.
        progress: progress.

    Raises:
        InputError: a head that was made for another CLIP or focus mode; too few images.
        ParityError: what was built answers otherwise than the float32 model.
        EngineDirectoryError: `target` exists (without `force`) or cannot be written.
    """
    config, progress = config or ExportConfig(), progress or ProgressReporter()
    _check_head(parts)
    with write_engine_directory(target, force=force) as staging:
        with progress("writing weights"), writing(staging):
            (staging / HEAD_WEIGHTS).write_bytes(save(parts.head.tensors()))
            if "torch" in config.targets:
                for name, module in (
                    (SEGMENTER_WEIGHTS, parts.segmenter),
                    (CLASSIFIER_WEIGHTS, parts.clip),
                ):
                    (staging / name).write_bytes(save(_contiguous(module)))
        manifest = _manifest(parts, config)
        smaller = parts.native_segmenter is not None and parts.focus.mode != "none"
        if smaller or config.backends != {"torch": "fp32"}:
            calibration = (calibration or images) if config.int8 else ()
            manifest = _checked(staging, manifest, parts, config, images, calibration, progress)
        with progress("hashing"):
            return write_manifest(staging, manifest)


def _checked(
    staging: Path,
    manifest: Manifest,
    parts: ModelBundle,
    config: ExportConfig,
    images: Sequence[SourceImage],
    calibration: Sequence[SourceImage],
    progress: ProgressReporter,
) -> Manifest:
    """Write and check all but PyTorch in float32; the manifest with what was found."""
    # Here and not above: PyTorch in float32 alone is written where ONNX's packages are missing.
    from medfocus.export.validate.gate import Gate
    from medfocus.export.validate.segmenter_size import check_segmenter_size

    if len(images) < config.buckets[-1]:
        raise InputError(
            "images",
            f"{len(images)} do not fill a batch of {config.buckets[-1]}",
            "check on more images, or export for smaller batches",
        )
    steered = manifest.focus.mode != "none"
    segmenter, classifier = _graphs(parts, manifest)
    gate = Gate.prepare(
        segmenter,
        classifier,
        _prepared(images, manifest),
        _prepared(calibration, manifest),
        config,
        progress,
    )
    sizes: dict[str, Parity] = {}
    if parts.native_segmenter is not None and steered:
        native = SegmenterGraph(parts.native_segmenter, parts.selection).eval()
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


def _graphs(parts: ModelBundle, manifest: Manifest) -> tuple[SegmenterGraph, ClassifierGraph]:
    normalisation = manifest.preprocessing.classifier
    classifier = ClassifierGraph(
        parts.clip,
        parts.focus,
        mean=normalisation.mean,
        std=normalisation.std,
        **graph_tensors(parts.head.tensors()),
    )
    return SegmenterGraph(parts.segmenter, parts.selection).eval(), classifier.eval()


def _check_head(parts: ModelBundle) -> None:
    head, hint = parts.head, "make the head with this engine's CLIP and focus mode"
    if head.clip != parts.preset.clip:
        problem = f"was made for {head.clip}, and this engine has {parts.preset.clip}"
        raise InputError("head", problem, hint)
    if head.clip_sha256 != parts.clip_sha256:
        raise InputError("head", f"was made for other weights of {head.clip}", hint)
    if head.focus != parts.focus.mode:
        problem = f"was made with focus {head.focus}, and this engine has {parts.focus.mode}"
        raise InputError("head", problem, hint)


def _contiguous(module: FocusCLIP | Segmenter) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in module.state_dict().items()}


def _manifest(parts: ModelBundle, config: ExportConfig) -> Manifest:
    return Manifest(
        producer=Producer("medfocus", medfocus.__version__),
        models=Models(
            ClipModel(parts.preset.clip, parts.clip_sha256),
            Sam2Model(parts.preset.sam2, parts.segmenter.image_size, parts.segmenter_sha256),
        ),
        precision=Precision(),
        focus=parts.focus,
        selection=parts.selection,
        prompts=ZERO_SHOT,
        preprocessing=parts.preset.preprocessing(parts.clip, parts.segmenter),
        classes=parts.head.classes,
        buckets=config.buckets,
        files={},
        backends=config.backends,
        parity={},
        thresholds={},
    )
