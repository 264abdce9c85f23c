"""Hugging Face's Sam2Model and CLIPVisionModelWithProjection with an engine's weights."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medfocus.benchmarks.baselines.models import Models
from medfocus.engine.artifact.directory import EngineDirectory, load_tensors
from medfocus.engine.artifact.layout import CLASSIFIER_WEIGHTS, SEGMENTER_WEIGHTS
from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import classifier_view, in_frame
from medfocus.engine.preprocess.resize import normalise, segmenter_pixels
from medfocus.engine.runtime.graphs import Array
from medfocus.errors import InputError, WeightsError
from medfocus.models.clip.architecture import clip_configuration
from medfocus.models.sam2.architecture import sam2_architecture
from medfocus.models.sam2.selection import select_focus

LEAVE_OUT = "leave out --baselines transformers"
LOGIT = 32.0  # sam2's predictor cuts low-resolution masks off at ±32
# sam2's names to transformers', applied in order.
SAM2_NAMES = (
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"^image_encoder\.neck\.convs\.(\d)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^sam_prompt_encoder\.pe_layer\..*", "prompt_encoder.shared_embedding.positional_embedding"),
    (r"^sam_(prompt_encoder|mask_decoder)\.", r"\1."),
    (r"mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"mask_downscaling\.6\.", "mask_embed.conv3."),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"(head|mlps\.\d)\.layers\.0\.", r"\1.proj_in."),
    (r"(head|mlps\.\d)\.layers\.1\.", r"\1.layers.0."),
    (r"(head|mlps\.\d)\.layers\.2\.", r"\1.proj_out."),
    (r"mlp\.layers\.0\.", "mlp.proj_in."),
    (r"mlp\.layers\.1\.", "mlp.proj_out."),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.norm(\d|_final_attn)\.", r".layer_norm\1."),
)
CLIP_NAMES = (
    (r"^visual\.", "vision_model."),
    (r"\.(class_embedding)$", r".embeddings.\1"),
    (r"\.positional_embedding$", ".embeddings.position_embedding.weight"),
    (r"\.conv1\.", ".embeddings.patch_embedding."),
    (r"\.ln_pre\.", ".pre_layrnorm."),
    (r"\.ln_post\.", ".post_layernorm."),
    (r"\.transformer\.resblocks\.", ".encoder.layers."),
    (r"\.ln_(\d)\.", r".layer_norm\1."),
    (r"\.attn\.", ".self_attn."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


def transformers_models(directory: EngineDirectory, device: str, precision: str) -> Models:
    """Both models by transformers' own batch calls, on the pixels that the engine prepares.

    Args:
        directory: whose weights and prompts; exported with the target `torch`.
        device: cpu or cuda.
        precision: fp32, bf16 or fp16, the models' own dtype.

    Raises:
        InputError: transformers is not installed, or has no such CLIP.
        WeightsError: a tensor that is missing or unexpected.
    """
    try:
        import transformers
    except ImportError as error:
        problem, hint = "is not installed", "pip install 'medfocus[biomed]'"
        code = "backend.not_installed"
        raise InputError("transformers", problem, hint, code=code) from error
    manifest = directory.manifest
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    size = manifest.models.sam2.image_size
    sam2 = transformers.Sam2Model(_sam2_configuration(manifest.models.sam2.architecture, size))
    _fill(sam2, sam2_weights(load_tensors(directory, SEGMENTER_WEIGHTS)), SEGMENTER_WEIGHTS)
    clip = transformers.CLIPVisionModelWithProjection(
        _clip_configuration(manifest.models.clip.architecture)
    )
    _fill(clip, clip_weights(load_tensors(directory, CLASSIFIER_WEIGHTS)), CLASSIFIER_WEIGHTS)
    for model in (sam2, clip):
        model.train(False).to(device, dtype)
    first, second = manifest.preprocessing.segmenter, manifest.preprocessing.classifier
    points, labels = (
        torch.from_numpy(each).to(device) for each in in_frame(manifest.prompts, size)
    )

    @torch.inference_mode()
    def segment(images: Sequence[SourceImage]) -> Array:
        pixels = np.stack([segmenter_pixels(image.pixels, first.size) for image in images])
        shown = torch.from_numpy(normalise(pixels, first.mean, first.std)).to(device, dtype)
        found = sam2(
            pixel_values=shown,
            input_points=points.to(dtype).expand(len(images), *points.shape),
            input_labels=labels.expand(len(images), *labels.shape),
        )
        masks = found.pred_masks.float().clamp(-LOGIT, LOGIT).cpu()
        chosen = select_focus(masks, found.iou_scores.float().cpu(), manifest.selection)
        focus_logits: Array = chosen[0].numpy()
        return focus_logits

    @torch.inference_mode()
    def classify(images: Sequence[SourceImage], _: Array) -> Array:
        pixels = np.stack([classifier_view(image, manifest.preprocessing) for image in images])
        shown = torch.from_numpy(normalise(pixels, second.mean, second.std)).to(device, dtype)
        embedding: Array = clip(pixel_values=shown).image_embeds.float().cpu().numpy()
        return embedding

    return Models(segment, classify, steered=False)


def sam2_weights(weights: Mapping[str, Array]) -> dict[str, Tensor]:
    """sam2's tensors under transformers' names."""
    found = _renamed(weights, SAM2_NAMES)
    points = [found.pop(f"prompt_encoder.point_embeddings.{kind}.weight") for kind in range(4)]
    found["prompt_encoder.point_embed.weight"] = torch.cat(points)
    found["shared_image_embedding.positional_embedding"] = found[
        "prompt_encoder.shared_embedding.positional_embedding"
    ]
    return found


def clip_weights(weights: Mapping[str, Array]) -> dict[str, Tensor]:
    """open_clip's tensors of an image encoder under transformers' names; a head's are left out."""
    visual = {name: each for name, each in weights.items() if name.startswith("visual.")}
    found = _renamed(visual, CLIP_NAMES)
    found["visual_projection.weight"] = found.pop("vision_model.proj").T
    for name in [name for name in found if ".in_proj_" in name]:
        place, _, kind = name.rpartition(".in_proj_")
        for letter, part in zip("qkv", found.pop(name).chunk(3), strict=True):
            found[f"{place}.{letter}_proj.{kind}"] = part
    return found


def _renamed(weights: Mapping[str, Array], rules: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    found = {}
    for name, array in weights.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        found[name] = torch.from_numpy(array)
    return found


def _fill(model: nn.Module, weights: Mapping[str, Tensor], file: str) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        problem = f"does not fit {type(model).__name__} ({str(error).splitlines()[1].strip()})"
        raise WeightsError(file, problem, LEAVE_OUT) from error


def _sam2_configuration(name: str, size: int) -> Any:
    from transformers import Sam2Config

    numbers = sam2_architecture(name)
    widths = [numbers.embed_dim * 2**stage for stage in range(4)]
    return Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": numbers.embed_dim,
                "num_attention_heads": numbers.num_heads,
                "image_size": [size, size],
                "window_positional_embedding_background_size": list(
                    numbers.window_pos_embed_bkg_spatial_size
                ),
                "blocks_per_stage": list(numbers.stages),
                "embed_dim_per_stage": widths,
                "num_attention_heads_per_stage": [
                    numbers.num_heads * 2**stage for stage in range(4)
                ],
                "window_size_per_stage": list(numbers.window_spec),
                "global_attention_blocks": list(numbers.global_att_blocks),
            },
            "backbone_channel_list": widths[::-1],
            "backbone_feature_sizes": [[size // stride] * 2 for stride in (4, 8, 16)],
            "fpn_hidden_size": numbers.d_model,
        },
        prompt_encoder_config={"hidden_size": numbers.d_model, "image_size": size},
        mask_decoder_config={
            "hidden_size": numbers.d_model,
            "mlp_dim": numbers.decoder_mlp_dim,
        },
    )


def _clip_configuration(name: str) -> Any:
    from transformers import CLIPVisionConfig

    configuration = clip_configuration(name)
    vision = configuration["vision_cfg"]
    if "timm_model_name" in vision:
        raise InputError(name, "is no CLIP that transformers has", LEAVE_OUT)
    width = vision["width"]
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=round(width * vision.get("mlp_ratio", 4.0)),
        projection_dim=configuration["embed_dim"],
        num_hidden_layers=vision["layers"],
        num_attention_heads=width // vision.get("head_width", 64),
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        hidden_act="quick_gelu" if configuration.get("quick_gelu") else "gelu",
    )
