"""Who can do the two models' jobs: engines on their backends, and what one would run otherwise."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from sam2.build_sam import build_sam2
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_image_predictor import SAM2ImagePredictor
from torch import Tensor, nn

from medfocus.benchmarks.random_weights import SAM2_CONFIGS
from medfocus.engine.artifact import (
    CLASSIFIER_WEIGHTS,
    SEGMENTER_WEIGHTS,
    EngineDirectory,
    load_tensors,
)
from medfocus.engine.backends import Array, Backend, load_backend
from medfocus.engine.images import SourceImage
from medfocus.engine.prepare import classifier_view, in_frame, pooling
from medfocus.engine.preprocess import normalise, segmenter_pixels
from medfocus.models.architectures import (
    build_mask_decoder,
    build_prompt_encoder,
    build_upstream_image_encoder,
    build_vision_tower,
    sam2_architecture,
)
from medfocus.models.selection import select_focus
from medfocus.models.weights import load_strictly

OURS = "medfocus"
UPSTREAM = "sam2 + open_clip"


@dataclass(frozen=True, eq=False)
class Models:
    """Both models, loaded, whoever runs them. Pixels in: each prepares them in its own way.

    Attributes:
        name: whose they are; precision: in what they compute.
        segment: B images to focus logits (B, h, w).
        classify: B images and their focus logits to embeddings (B, E).
        steered: whether the focus moves the embedding at all.
        close: gives back what they hold.
    """

    name: str
    precision: str
    segment: Callable[[Sequence[SourceImage]], Array]
    classify: Callable[[Sequence[SourceImage], Array], Array]
    steered: bool
    close: Callable[[], object] = lambda: None


def engine_models(directory: EngineDirectory, backend: str, device: str) -> Models:
    """An engine on a backend, with the engine's own preparation.

    Raises:
        MedfocusError: the backend is not there, or cannot load it.
    """
    manifest = directory.manifest
    loaded = load_backend(directory, backend, device)
    return _prepared(f"{OURS}, {backend}", manifest.backends[backend], directory, loaded)


def reference_models(directory: EngineDirectory) -> Models:
    """The engine's models in PyTorch and float32 on the CPU: what accuracy is measured against.

    Raises:
        MedfocusError: the engine was exported without the target `torch`.
    """
    backends = {**directory.manifest.backends, "torch": "fp32"}
    exact = replace(directory, manifest=replace(directory.manifest, backends=backends))
    return _prepared("reference", "fp32", directory, load_backend(exact, "torch", "cpu"))


def _prepared(name: str, precision: str, directory: EngineDirectory, backend: Backend) -> Models:
    manifest = directory.manifest
    first, second = manifest.preprocessing.segmenter, manifest.preprocessing.classifier
    points, labels = in_frame(manifest.prompts, first.size)

    def segment(images: Sequence[SourceImage]) -> Array:
        pixels = np.stack([segmenter_pixels(image.pixels, first.size) for image in images])
        shown = normalise(pixels, first.mean, first.std)
        count = len(images)
        focus_logits, _ = backend.segment(
            shown,
            np.broadcast_to(points, (count, *points.shape)).copy(),
            np.broadcast_to(labels, (count, *labels.shape)).copy(),
        )
        return focus_logits

    def classify(images: Sequence[SourceImage], focus_logits: Array) -> Array:
        pixels = np.stack([classifier_view(image, manifest.preprocessing) for image in images])
        shown = normalise(pixels, second.mean, second.std)
        sizes = [image.pixels.shape[:2] for image in images]
        weights = [pooling(size, manifest.preprocessing, manifest.focus) for size in sizes]
        rows, cols = (np.stack(half) for half in zip(*weights, strict=True))
        embedding, *_ = backend.classify(shown, focus_logits, rows, cols)
        return embedding

    return Models(name, precision, segment, classify, manifest.focus.mode != "none", backend.close)


def upstream_models(
    directory: EngineDirectory, device: str, precision: str = "fp32", compiled: bool = False
) -> Models:
    """SAM2ImagePredictor's batch call and open_clip's encode_image, with the engine's weights.

    Args:
        directory: whose weights and prompts; exported with the target `torch`.
        device: cpu or cuda.
        precision: fp32, or autocast to bf16 or fp16.
        compiled: both image encoders through torch.compile.
    """
    manifest = directory.manifest
    tower = build_vision_tower(manifest.models.clip.architecture).eval()
    load_strictly(tower, _visual(_tensors(directory, CLASSIFIER_WEIGHTS)), CLASSIFIER_WEIGHTS)
    predictor = SAM2ImagePredictor(_sam2(directory).to(device))
    # Upstream hard-codes the feature sizes of a 1024² image.
    size = predictor.model.image_size
    predictor._bb_feat_sizes = [(size // stride,) * 2 for stride in (4, 8, 16)]
    encode: Callable[[Tensor], Tensor] = tower.to(device)
    if compiled:
        encode = torch.compile(tower)
        predictor.model.image_encoder = torch.compile(predictor.model.image_encoder)
    transform: Any = open_clip.image_transform(tower.image_size, is_train=False)
    points = np.array(manifest.prompts.points, np.float32)
    labels = np.array(manifest.prompts.labels, np.int32)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def arithmetic() -> Any:
        return nullcontext() if half is None else torch.autocast(device, half)

    @torch.inference_mode()
    def segment(images: Sequence[SourceImage]) -> Array:
        pixels = [image.pixels for image in images]
        with arithmetic():
            predictor.set_image_batch(pixels)
            shown = [points * (image.shape[1], image.shape[0]) for image in pixels]
            _, iou, masks = predictor.predict_batch(
                shown, [labels] * len(images), return_logits=True
            )
        chosen = select_focus(
            torch.from_numpy(np.stack(masks)), torch.from_numpy(np.stack(iou)), manifest.selection
        )
        focus_logits: Array = chosen[0].numpy()
        return focus_logits

    @torch.inference_mode()
    def classify(images: Sequence[SourceImage], _: Array) -> Array:
        shown = torch.stack([transform(Image.fromarray(image.pixels)) for image in images])
        with arithmetic():
            embedding: Array = encode(shown.to(device)).float().cpu().numpy()
        return embedding

    name = f"{UPSTREAM}, compiled" if compiled else UPSTREAM
    return Models(name, precision, segment, classify, steered=False)


def _visual(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """An engine's classifier weights under open_clip's names of its image encoder."""
    prefix = "visual."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }


def _sam2(directory: EngineDirectory) -> SAM2Base:
    """Upstream's SAM2 with the engine's weights; what only videos need stays random."""
    models = directory.manifest.models.sam2
    if models.architecture in SAM2_CONFIGS:
        overrides = [f"++model.image_size={models.image_size}"]
        sam2 = build_sam2(
            SAM2_CONFIGS[models.architecture], device="cpu", hydra_overrides_extra=overrides
        )
    else:
        numbers = sam2_architecture(models.architecture)
        sam2 = SAM2Base(
            build_upstream_image_encoder(numbers),
            memory_attention=None,
            memory_encoder=nn.Identity(),
            num_maskmem=0,
            image_size=models.image_size,
            directly_add_no_mem_embed=True,
            use_high_res_features_in_sam=True,
            pred_obj_scores=True,
            pred_obj_scores_mlp=True,
            iou_prediction_use_sigmoid=True,
        )
        sam2.sam_prompt_encoder = build_prompt_encoder(numbers, models.image_size)
        sam2.sam_mask_decoder = build_mask_decoder(numbers)
    _, unexpected = sam2.load_state_dict(_tensors(directory, SEGMENTER_WEIGHTS), strict=False)
    assert not unexpected
    return sam2.eval()


def _tensors(directory: EngineDirectory, file: str) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in load_tensors(directory, file).items()}
