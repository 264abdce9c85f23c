"""Runs an export once its command line is parsed: load, build, check."""

import argparse
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.artifact.writing import check_target
from medfocus.errors import InputError
from medfocus.export.config import ExportConfig, installed_targets
from medfocus.export.engine_directory import ModelBundle, build
from medfocus.export.progress import ProgressReporter
from medfocus.export.prompt_file import read_prompts
from medfocus.export.validate.images import (
    CALIBRATION_IMAGES,
    CALIBRATION_SEED,
    GATE_IMAGES,
    gate_images,
)
from medfocus.models.clip.adapter import apply_adapter
from medfocus.models.clip.class_names import read_classes
from medfocus.models.clip.encoder import FocusCLIP
from medfocus.models.clip.text import CLASS_PROMPT, check_template, class_embeddings
from medfocus.models.head import Head, uniform_strength
from medfocus.models.loading import TINY, load_clip, load_segmenter
from medfocus.models.presets import GRID, ZERO_SHOT, Preset, preset, prompt_grid
from medfocus.models.sam2.segmenter import Segmenter
from medfocus.phantoms import DEMO_KINDS
from medfocus.settings import Focus, FocusMode, Prompts, Selection

log = logging.getLogger(__name__)


def export(
    options: argparse.Namespace, out: Path, report: Console
) -> tuple[Manifest, Mapping[str, float]]:
    """Build the engine directory that a command line describes.

    Args:
        options: the parsed command line.
        out: the engine directory.
        report: where progress is shown.

    Returns:
        The manifest that was written, and the seconds of each stage.

    Raises:
        MedfocusError: what `ExportConfig`, `build` and the loading of weights raise. What can be
            checked quickly is checked before weights are loaded.
    """
    progress = ProgressReporter(report)
    chosen = _preset(options)
    config = _config(options, chosen, report)
    check_target(out, options.force)
    segmentation = _segmentation(options)
    templates = _templates(options)
    head = Head.read(options.head) if options.head else None
    classes = () if head else _classes(options, chosen)
    images = gate_images(options.calibration, max(GATE_IMAGES, config.buckets[-1]))
    calibration = (
        gate_images(options.calibration, CALIBRATION_IMAGES, CALIBRATION_SEED)
        if config.int8
        else []
    )
    with progress("loading weights"):
        bundle = _bundle(options, chosen, head, classes, templates, segmentation)
    if options.head and bundle.focus.mode != "none" and segmentation != (ZERO_SHOT, Selection()):
        log.warning(
            "the head was fitted with other focus masks: those of the default prompts and selection"
        )
    manifest = build(
        out, bundle, config, images, calibration, force=options.force, progress=progress
    )
    return manifest, progress.seconds


def _preset(options: argparse.Namespace) -> Preset:
    chosen = preset(options.preset)
    return replace(chosen, clip=options.clip or chosen.clip, sam2=options.sam2 or chosen.sam2)


def _config(options: argparse.Namespace, chosen: Preset, report: Console) -> ExportConfig:
    if options.targets == "auto":
        targets, reasons = installed_targets(options.dtype)
        for target, reason in reasons.items():
            report.print(f"target {target} left out: {reason}")
    else:
        targets = tuple(options.targets.split(","))
    buckets = _buckets(options.batch) or chosen.buckets
    return ExportConfig(
        options.dtype,
        targets,
        options.int8,
        buckets,
        options.trt_attention,
        optional=options.targets == "auto",
        join=options.join,
    )


def _buckets(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(",")) if text else ()
    except ValueError as error:
        raise InputError(
            f"batch {text!r}", "is no list of numbers", "give sizes such as 1,8,32"
        ) from error


def _classes(options: argparse.Namespace, chosen: Preset) -> tuple[str, ...]:
    if options.classes:
        return read_classes(options.classes)
    if chosen.clip != TINY:
        raise InputError(
            "classes",
            "none are given",
            "name them with --classes FILE, or give --head FILE",
            code="input.empty",
        )
    return tuple(sorted(kind.name for kind in DEMO_KINDS))  # `tiny` knows only phantoms


def _templates(options: argparse.Namespace) -> tuple[str, ...]:
    """The templates of class prompts; none for a head, which has its class embeddings."""
    if options.head is None:
        return tuple(map(check_template, options.class_prompt or [CLASS_PROMPT]))
    if options.class_prompt:
        raise InputError(
            "class prompt",
            "is for zero-shot classification, and the head has class embeddings of its own",
            "leave out --class-prompt or --head",
            code="input.mismatch",
        )
    return ()


def _segmentation(options: argparse.Namespace) -> tuple[Prompts, Selection]:
    """How SAM2 is prompted, and which of its masks may be the focus."""
    selection = Selection(
        policy=options.selection,
        min_area=options.min_area,
        max_area=options.max_area,
        min_score=options.min_score,
        stability_offset=options.stability_offset,
    )
    if options.prompts is not None:
        return read_prompts(options.prompts), selection
    return prompt_grid(options.prompt_grid or GRID), selection


def _bundle(
    options: argparse.Namespace,
    chosen: Preset,
    head: Head | None,
    classes: tuple[str, ...],
    templates: tuple[str, ...],
    segmentation: tuple[Prompts, Selection],
) -> ModelBundle:
    loaded = load_clip(chosen.clip, options.clip_weights, options.text_folder)
    segmenter, segmenter_sha256 = load_segmenter(
        chosen.sam2, options.sam2_weights, options.segmenter_size
    )
    clip = FocusCLIP(loaded.model.visual)
    if head is None:
        text = class_embeddings(loaded.model, loaded.tokenize, classes, templates)
        strength = uniform_strength(clip.layers, chosen.strength)
        focus: FocusMode = options.focus or "soft"
        head = Head(chosen.clip, loaded.sha256, focus, classes, text, loaded.logit_scale, strength)
    apply_adapter(clip, head.adapter)
    prompts, selection = segmentation
    return ModelBundle(
        preset=chosen,
        clip=clip,
        clip_sha256=loaded.sha256,
        segmenter=segmenter,
        segmenter_sha256=segmenter_sha256,
        head=head,
        focus=Focus(mode=options.focus or head.focus),
        selection=selection,
        prompts=prompts,
        class_prompts=templates,
        native_segmenter=_native_segmenter(options, chosen, segmenter),
    )


def _native_segmenter(
    options: argparse.Namespace, chosen: Preset, used: Segmenter
) -> Segmenter | None:
    """The same SAM2 at its architecture's image size, where the engine's size is another."""
    if options.segmenter_size is None:
        return None
    native, _ = load_segmenter(chosen.sam2, options.sam2_weights)
    return native if native.image_size != used.image_size else None
