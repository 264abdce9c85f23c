"""How often models launch each table entry, compared with a count in the presets' models."""

from collections import Counter

import open_clip
import pytest
from sam2.modeling.backbones.hieradet import Hiera

from medfocus.kernels.tile import COLUMNS, TileKey, band, table
from medfocus.kernels.tuning.calls import OTHERS, PRESETS, calls
from medfocus.kernels.tuning.cases import CASES, HEADS
from medfocus.models.presets import PRESETS as MODELS
from medfocus.models.sam2.architecture import SAM2_ARCHITECTURES

PATCH = 4  # pixels per position of Hiera's first grid


def launches_of_sam2(name: str) -> Counter[tuple[int, int, bool, int]]:
    """(side of the grid, window, pool, D) -> heads of all launches; window 0 for the whole grid."""
    architecture = SAM2_ARCHITECTURES[name]
    trunk = Hiera(
        embed_dim=architecture.embed_dim,
        num_heads=architecture.num_heads,
        stages=architecture.stages,
        global_att_blocks=architecture.global_att_blocks,
        window_spec=architecture.window_spec,
    )
    side = architecture.image_size // PATCH
    found: Counter[tuple[int, int, bool, int]] = Counter()
    for block in trunk.blocks:
        pool = block.pool is not None
        heads = block.attn.num_heads
        found[side, block.window_size, pool, block.dim_out // heads] += heads
        side //= 2 if pool else 1
    return found


def test_the_presets_sam2() -> None:
    expected: Counter[tuple[int, int, bool, int]] = Counter()
    for preset in ("base", "large", "biomed"):
        expected += launches_of_sam2(MODELS[preset].sam2)
    found: Counter[tuple[int, int, bool, int]] = Counter()
    for columns, width in ((96, 96), (64, 56)):  # without windows, masked_attention is launched
        (count,) = PRESETS["masked_attention", columns, band(64**2)]
        found[64, 0, False, width] = round(count * HEADS)
    for (kernel, columns, number), per_case in PRESETS.items():
        if kernel == "window_attention":
            key = TileKey(kernel, 90, 16, columns, number)
            for case, count in zip(CASES[kernel](key, table()[key]), per_case, strict=True):
                shape = case.shape
                place = shape["grid"], shape["window"], shape["pool"] == 2, shape["D"]
                found[place] += round(count * shape["H"])
    assert +found == expected


def test_the_presets_clip() -> None:
    expected: Counter[tuple[int, int]] = Counter()
    # BiomedCLIP's tower is timm's vit_base_patch16_224: ViT-B-16's size.
    for name in ("ViT-B-16", "ViT-L-14-336", "ViT-B-16"):
        vision = open_clip.get_model_config(name)["vision_cfg"]
        tokens = 1 + (vision["image_size"] // vision["patch_size"]) ** 2
        heads = vision["width"] // vision.get("head_width", 64)
        expected[vision.get("head_width", 64), band(tokens)] += (vision["layers"] - 1) * heads
    found = {
        (columns, number): round(count[0] * HEADS)
        for (kernel, columns, number), count in PRESETS.items()
        if kernel == "masked_attention" and number < band(64**2)
    }
    assert found == dict(expected)


@pytest.mark.parametrize("kernel", CASES)
def test_every_entry_has_calls_for_every_case(kernel: str) -> None:
    known = {**PRESETS, **OTHERS}
    for columns in COLUMNS:
        for bits in (16, 32):
            for number in range(5):
                key = TileKey(kernel, 90, bits, columns, number)
                cases = CASES[kernel](key, table()[key])
                is_known, counts = calls(key, cases)
                assert is_known == (bits == 16 and (kernel, columns, number) in known)
                assert len(counts) == len(cases)
                assert sum(counts) > 0
