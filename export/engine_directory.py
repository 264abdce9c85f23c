"""Models, head and settings to an engine directory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save

import medfocus
from medfocus.engine.artifact import (
    CLASSIFIER_WEIGHTS,
    HEAD_WEIGHTS,
    SEGMENTER_WEIGHTS,
    write_engine_directory,
    write_manifest,
    writing,
)
from medfocus.engine.images import SourceImage
from medfocus.engine.manifest import (
    ClipModel,
    Manifest,
    Models,
    Producer,
    Sam2Model,
)
from medfocus.engine.parity import Parity
from medfocus.engine.precision import Precision
from medfocus.engine.prepare import prepare
from medfocus.errors import InputError
from medfocus.export.parity import SEGMENTER_SIZE, Images
from medfocus.export.plan import Plan
from medfocus.export.stages import Stages
from medfocus.models.clip import FocusCLIP
from medfocus.models.graphs import ClassifierGraph, SegmenterGraph
from medfocus.models.head import Head, graph_tensors
from medfocus.models.presets import ZERO_SHOT, Preset
from medfocus.models.segmenter import Segmenter
from medfocus.settings import Focus, Selection


@dataclass(frozen=True, eq=False)
class Parts:
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
    parts: Parts,
    plan: Plan | None = None,
    images: Sequence[SourceImage] = (),
    calibration: Sequence[SourceImage] = (),
    *,
    force: bool = False,
    stages: Stages | None = None,
) -> Manifest:
    """Write an engine directory, checked, whole or not at all.

    Args:
        target: the directory.
        parts: the models and their settings.
        plan: what to build; PyTorch in float32, which is the reference itself, when None.
        images: what everything else is checked on; as many as the largest bucket at least.
        calibration: what int8 takes its ranges from; `images` where there are none.
        force: replace an engine directory that is there.
        stages: progress.

    Raises:
        InputError: a head that was made for another CLIP or focus mode; too few images.
        ParityError: what was built answers otherwise than the float32 model.
        EngineDirectoryError: `target` exists (without `force`) or cannot be written.
    """
    plan, stages = plan or Plan(), stages or Stages()
    _check_head(parts)
    with write_engine_directory(target, force=force) as staging:
        with stages("writing weights"), writing(staging):
            (staging / HEAD_WEIGHTS).write_bytes(save(parts.head.tensors()))
            if "torch" in plan.targets:
                for name, module in (
                    (SEGMENTER_WEIGHTS, parts.segmenter),
                    (CLASSIFIER_WEIGHTS, parts.clip),
                ):
                    (staging / name).write_bytes(save(_contiguous(module)))
        manifest = _manifest(parts, plan)
        smaller = parts.native_segmenter is not None and parts.focus.mode != "none"
        if smaller or plan.backends != {"torch": "fp32"}:
            calibration = (calibration or images) if plan.int8 else ()
            manifest = _checked(staging, manifest, parts, plan, images, calibration, stages)
        with stages("hashing"):
            return write_manifest(staging, manifest)


def _checked(
    staging: Path,
    manifest: Manifest,
    parts: Parts,
    plan: Plan,
    images: Sequence[SourceImage],
    calibration: Sequence[SourceImage],
    stages: Stages,
) -> Manifest:
    """Write and check all but PyTorch in float32; the manifest with what was found."""
    # Here and not above: PyTorch in float32 alone is written where ONNX's packages are missing.
    from medfocus.export.gate import Gate
    from medfocus.export.segmenter_size import check_segmenter_size

    if len(images) < plan.buckets[-1]:
        raise InputError(
            "images",
            f"{len(images)} do not fill a batch of {plan.buckets[-1]}",
            "check on more images, or export for smaller batches",
        )
    steered = manifest.focus.mode != "none"
    segmenter, classifier = _graphs(parts, manifest)
    gate = Gate.prepare(
        segmenter,
        classifier,
        _prepared(images, manifest),
        _prepared(calibration, manifest),
        plan,
        stages,
    )
    sizes: dict[str, Parity] = {}
    if parts.native_segmenter is not None and steered:
        native = SegmenterGraph(parts.native_segmenter, parts.selection).eval()
        sizes["segmenter size"] = check_segmenter_size(
            native, classifier, gate.reference, images, manifest, stages
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


def _graphs(parts: Parts, manifest: Manifest) -> tuple[SegmenterGraph, ClassifierGraph]:
    normalisation = manifest.preprocessing.classifier
    classifier = ClassifierGraph(
        parts.clip,
        parts.focus,
        mean=normalisation.mean,
        std=normalisation.std,
        **graph_tensors(parts.head.tensors()),
    )
    return SegmenterGraph(parts.segmenter, parts.selection).eval(), classifier.eval()


def _check_head(parts: Parts) -> None:
    head, mend = parts.head, "make the head with this engine's CLIP and focus mode"
    if head.clip != parts.preset.clip:
        problem = f"was made for {head.clip}, and this engine has {parts.preset.clip}"
        raise InputError("head", problem, mend)
    if head.clip_sha256 != parts.clip_sha256:
        raise InputError("head", f"was made for other weights of {head.clip}", mend)
    if head.focus != parts.focus.mode:
        problem = f"was made with focus {head.focus}, and this engine has {parts.focus.mode}"
        raise InputError("head", problem, mend)


def _contiguous(module: FocusCLIP | Segmenter) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in module.state_dict().items()}


def _manifest(parts: Parts, plan: Plan) -> Manifest:
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
        buckets=plan.buckets,
        files={},
        backends=plan.backends,
        parity={},
        thresholds={},
    )
