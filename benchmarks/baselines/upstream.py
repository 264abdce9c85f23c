"""Upstream: sam2's predictor and open_clip, with an engine's weights."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from sam2.build_sam import build_sam2
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_image_predictor import SAM2ImagePredictor
from torch import Tensor, nn

from medfocus.benchmarks.baselines.models import Models, emulates_half
from medfocus.engine.artifact.directory import EngineDirectory, load_tensors
from medfocus.engine.artifact.layout import CLASSIFIER_WEIGHTS, SEGMENTER_WEIGHTS
from medfocus.engine.io.images import SourceImage
from medfocus.engine.runtime.graphs import Array
from medfocus.errors import InputError
from medfocus.models.clip.architecture import build_vision_tower
from medfocus.models.sam2.architecture import (
    build_mask_decoder,
    build_prompt_encoder,
    build_upstream_image_encoder,
    sam2_architecture,
)
from medfocus.models.sam2.selection import select_focus
from medfocus.models.weights import load_strictly

SAM2_CONFIGS = {
    "sam2.1_hiera_tiny": "configs/sam2.1/sam2.1_hiera_t.yaml",
    "sam2.1_hiera_small": "configs/sam2.1/sam2.1_hiera_s.yaml",
    "sam2.1_hiera_base_plus": "configs/sam2.1/sam2.1_hiera_b+.yaml",
    "sam2.1_hiera_large": "configs/sam2.1/sam2.1_hiera_l.yaml",
}


def upstream_models(
    directory: EngineDirectory,
    device: str,
    way: str = "upstream",
    precision: str = "fp32",
    select: bool = True,
) -> Models:
    """SAM2ImagePredictor's batch call and open_clip's encode_image, with the engine's weights.

    Args:
        directory: whose weights and prompts; exported with the target `torch`.
        device: cpu or cuda.
        way: `compile` runs both image encoders through torch.compile, `onnx` through
            torch.onnx.export and ONNX Runtime; all others run them unchanged.
        precision: fp32, or autocast to bf16 or fp16.
        select: choose masks as the engine does; without, take the first, which is less work.

    Raises:
        MedfocusError: the engine was exported without the target `torch`, or the processor lacks
            the precision.
    """
    if precision != "fp32" and emulates_half(device):
        problem = f"this processor has no {precision}, which PyTorch would emulate"
        hint = f"leave out --baselines {way}"
        raise InputError(way, problem, hint, code="bench.precision_emulated")
    manifest = directory.manifest
    tower = build_vision_tower(manifest.models.clip.architecture).eval()
    load_strictly(tower, _visual(_tensors(directory, CLASSIFIER_WEIGHTS)), CLASSIFIER_WEIGHTS)
    predictor = sam2_predictor(_sam2(directory).to(device))
    size = predictor.model.image_size
    encode: Callable[[Tensor], Tensor] = tower.to(device)
    if way == "compile":
        # SAM2 caches its position codes in its first call, which changes the code that runs:
        # compiled before that, it would be compiled again while it is timed.
        predictor.set_image(np.zeros((size, size, 3), np.uint8))
        # For each batch size: code for any would be slower.
        encode = torch.compile(tower, dynamic=False)
        encoder = predictor.model.image_encoder
        predictor.model.image_encoder = torch.compile(encoder, dynamic=False)
    elif way == "onnx":
        # Imported here: memory and start of the others must not include it.
        from medfocus.benchmarks.baselines.plain_onnx import PlainOnnxEncoder, plain_onnx

        run = plain_onnx(tower, manifest.preprocessing.classifier.size, device)
        encode = lambda image: run(image)[0]  # noqa: E731
        encoder = predictor.model.image_encoder
        predictor.model.image_encoder = PlainOnnxEncoder(encoder, size, device)
    transform: Any = open_clip.image_transform(tower.image_size, is_train=False)
    points = np.array(manifest.prompts.points, np.float32)
    labels = np.array(manifest.prompts.labels, np.int32)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def autocast() -> Any:
        return nullcontext() if half is None else torch.autocast(device, half)

    @torch.inference_mode()
    def segment(images: Sequence[SourceImage]) -> Array:
        pixels = [image.pixels for image in images]
        with autocast():
            predictor.set_image_batch(pixels)
            shown = [points * (image.shape[1], image.shape[0]) for image in pixels]
            _, iou, masks = predictor.predict_batch(
                shown, [labels] * len(images), return_logits=True
            )
        shape = (len(images), len(points), -1)  # which sam2 drops for a single prompt
        found = torch.from_numpy(np.stack(masks)).view(*shape, *masks[0].shape[-2:])
        if not select:
            return np.asarray(found[:, 0, 0])
        chosen = select_focus(
            found, torch.from_numpy(np.stack(iou)).view(shape), manifest.selection
        )
        focus_logits: Array = chosen[0].numpy()
        return focus_logits

    @torch.inference_mode()
    def classify(images: Sequence[SourceImage], _: Array) -> Array:
        shown = torch.stack([transform(Image.fromarray(image.pixels)) for image in images])
        with autocast():
            embedding: Array = encode(shown.to(device)).float().cpu().numpy()
        return embedding

    return Models(segment, classify, steered=False)


def sam2_predictor(sam2: SAM2Base) -> SAM2ImagePredictor:
    """Upstream's predictor for any image size: it hard-codes the feature sizes of a 1024² image."""
    predictor = SAM2ImagePredictor(sam2)
    predictor._bb_feat_sizes = [(sam2.image_size // stride,) * 2 for stride in (4, 8, 16)]
    return predictor


def _visual(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """An engine's classifier weights under open_clip's names of its image encoder."""
    start = "visual."
    return {name[len(start) :]: t for name, t in weights.items() if name.startswith(start)}


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
        sam2.sam_mask_decoder = build_mask_decoder(numbers, MaskDecoder)
    _, unexpected = sam2.load_state_dict(_tensors(directory, SEGMENTER_WEIGHTS), strict=False)
    assert not unexpected
    return sam2.eval()


def _tensors(directory: EngineDirectory, file: str) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in load_tensors(directory, file).items()}
