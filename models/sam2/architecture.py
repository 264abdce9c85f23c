"""SAM2's image paths by name, and how to build them with random weights.

Files contain only names: a manifest that could contain a configuration could make its reader build
a model that nobody reviewed.
"""

from dataclasses import dataclass

from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import TwoWayTransformer

from medfocus.errors import InputError
from medfocus.models.sam2.hiera import replace_blocks
from medfocus.models.sam2.mask_decoder import PromptedMaskDecoder

IMAGE_EMBEDDING_STRIDE = 16  # SAM2's image embedding has one cell per 16×16 pixels


@dataclass(frozen=True)
class Sam2Architecture:
    """The parameters in which SAM2's image paths differ (sam2/configs/sam2.1/*.yaml)."""

    embed_dim: int
    num_heads: int
    stages: tuple[int, ...]
    global_att_blocks: tuple[int, ...]
    window_pos_embed_bkg_spatial_size: tuple[int, int]
    window_spec: tuple[int, ...] = (8, 4, 14, 7)
    d_model: int = 256
    decoder_mlp_dim: int = 2048
    image_size: int = 1024


SAM2_ARCHITECTURES: dict[str, Sam2Architecture] = {
    "medfocus_tiny": Sam2Architecture(
        embed_dim=32,
        num_heads=1,
        stages=(1, 1, 3, 1),
        global_att_blocks=(3, 4),
        window_pos_embed_bkg_spatial_size=(7, 7),
        window_spec=(8, 4, 8, 8),
        d_model=128,
        decoder_mlp_dim=256,
        image_size=256,
    ),
    "sam2.1_hiera_tiny": Sam2Architecture(96, 1, (1, 2, 7, 2), (5, 7, 9), (7, 7)),
    "sam2.1_hiera_small": Sam2Architecture(96, 1, (1, 2, 11, 2), (7, 10, 13), (7, 7)),
    "sam2.1_hiera_base_plus": Sam2Architecture(112, 2, (2, 3, 16, 3), (12, 16, 20), (14, 14)),
    "sam2.1_hiera_large": Sam2Architecture(
        144, 2, (2, 6, 36, 4), (23, 33, 43), (7, 7), window_spec=(8, 4, 16, 8)
    ),
}


def sam2_architecture(name: str) -> Sam2Architecture:
    """The parameters of a SAM2 image path by name.

    Raises:
        InputError: the name is unknown (`model.unknown`).
    """
    if name not in SAM2_ARCHITECTURES:
        raise InputError(
            f"SAM2 architecture {name!r}",
            "not known",
            "use one of " + ", ".join(SAM2_ARCHITECTURES),
            code="model.unknown",
        )
    return SAM2_ARCHITECTURES[name]


def build_image_encoder(architecture: Sam2Architecture) -> ImageEncoder:
    """SAM2's Hiera trunk on our kernels and its feature pyramid, with random weights.

    The pyramid only stores its weights: `Segmenter.pyramid` merges them with the decoder's.
    """
    encoder = build_upstream_image_encoder(architecture)
    replace_blocks(encoder.trunk)
    return encoder


def build_upstream_image_encoder(architecture: Sam2Architecture) -> ImageEncoder:
    """SAM2's Hiera trunk and feature pyramid with upstream's code, with random weights."""
    channels = [architecture.embed_dim * 2**stage for stage in range(4)]
    d_model = architecture.d_model
    return ImageEncoder(
        trunk=Hiera(
            embed_dim=architecture.embed_dim,
            num_heads=architecture.num_heads,
            stages=architecture.stages,
            global_att_blocks=architecture.global_att_blocks,
            window_pos_embed_bkg_spatial_size=architecture.window_pos_embed_bkg_spatial_size,
            window_spec=architecture.window_spec,
        ),
        neck=FpnNeck(
            position_encoding=PositionEmbeddingSine(num_pos_feats=d_model, warmup_cache=False),
            d_model=d_model,
            backbone_channel_list=channels[::-1],
            fpn_top_down_levels=[2, 3],
            fpn_interp_model="nearest",
        ),
        scalp=1,
    )


def build_prompt_encoder(architecture: Sam2Architecture, image_size: int) -> PromptEncoder:
    """SAM2's prompt encoder for S×S images, with random weights."""
    grid = image_size // IMAGE_EMBEDDING_STRIDE
    return PromptEncoder(
        embed_dim=architecture.d_model,
        image_embedding_size=(grid, grid),
        input_image_size=(image_size, image_size),
        mask_in_chans=16,
    )


def build_mask_decoder(
    architecture: Sam2Architecture, kind: type[MaskDecoder] = PromptedMaskDecoder
) -> MaskDecoder:
    """SAM2's two-way mask decoder with three masks per prompt, with random weights.

    Args:
        architecture: its parameters.
        kind: our class or upstream's.
    """
    return kind(
        transformer_dim=architecture.d_model,
        transformer=TwoWayTransformer(
            depth=2,
            embedding_dim=architecture.d_model,
            num_heads=8,
            mlp_dim=architecture.decoder_mlp_dim,
        ),
        num_multimask_outputs=3,
        iou_head_depth=3,
        iou_head_hidden_dim=256,
        use_high_res_features=True,
        iou_prediction_use_sigmoid=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        use_multimask_token_for_obj_ptr=True,
    )
