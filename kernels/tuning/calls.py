"""How often models launch each table entry: what tuning does first."""

from collections.abc import Sequence

from medfocus.kernels.tile import TileKey
from medfocus.kernels.tuning.case import Case

# (kernel, columns, band): launches per image of each of the entry's cases, in the presets base,
# large and biomed together; a launch with more heads than the case's counts as so many more. The
# last layer of CLIP is cls_attention's.
PRESETS: dict[tuple[str, int, int], Sequence[float]] = {
    # ViT-B-16 and BiomedCLIP: 11 layers of 12 heads each. ViT-L-14-336: 23 of 16.
    ("masked_attention", 64, 1): [2 * 11],
    ("masked_attention", 64, 3): [23 * 16 / 12],
    # Global attention, which window_attention leaves to masked_attention: Hiera-T and -S, 3 layers
    # of 4 heads each; Hiera-B+, 3 of 8.
    ("masked_attention", 96, 4): [2 * 3 * 4 / 12],
    ("masked_attention", 64, 4): [3 * 8 / 12],
    # Hiera-T and -S: windows of 8, 4, 8 pooled, 4 pooled, 7; 14, 14 pooled. Cases with D = 72 are
    # Hiera-L's.
    ("window_attention", 96, 0): [2, 2, 2, 2, 2, 0, 0, 0, 0, 0],
    ("window_attention", 96, 1): [3 + 7, 2, 0, 0],
    # Hiera-B+, with twice the heads.
    ("window_attention", 64, 0): [2 * 2, 2 * 2, 2 * 1, 2 * 1, 2 * 2],
    ("window_attention", 64, 1): [2 * 12, 2 * 1],
}
# ViT-L-14 is no preset, but has a goal (docs/kernels.md). Hard focus launches varlen where the
# other modes launch masked_attention, at any length up to theirs.
OTHERS: dict[tuple[str, int, int], Sequence[float]] = {
    ("masked_attention", 64, 2): [23 * 16 / 12],
    ("masked_attention_varlen", 64, 1): [2 * 11],
    ("masked_attention_varlen", 64, 2): [23 * 16 / 12],
    ("masked_attention_varlen", 64, 3): [23 * 16 / 12],
}


def calls(key: TileKey, cases: Sequence[Case]) -> tuple[bool, Sequence[float]]:
    """Whether a model is known to launch the entry, and how often per image each of its cases.

    Where none is known, each case counts as one.
    """
    known = (PRESETS | OTHERS).get((key.kernel, key.columns, key.band)) if key.bits == 16 else None
    return (False, [1.0] * len(cases)) if known is None else (True, known)
