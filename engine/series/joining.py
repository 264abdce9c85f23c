"""The slices' probabilities to a study's."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfocus.engine.io.notices import Notice
from medfocus.settings import join_slices

NONE_FOCUSED = Notice(
    "series.none_focused", "no region was found in any slice: all slices count the same"
)


class Joined(NamedTuple):
    """A study's answer.

    Attributes:
        probabilities: float64 (C,), of sum 1.
        evidence: the slice that speaks most for the most probable class: of those that count, the
            one with that class's highest probability; the first of several.
        notices: what the reader must know of it.
    """

    probabilities: NDArray[np.float64]
    evidence: int
    notices: tuple[Notice, ...]


def joined(probabilities: NDArray[np.float64], scores: Sequence[float | None], rule: str) -> Joined:
    """Join the answers of N slices.

    `mean`: p_c = Σᵢ p_ic / N. `max`: p_c = maxᵢ p_ic / Σ_c' maxᵢ p_ic'. `focused:K`: the mean over
    the K slices of highest focus score, over fewer if fewer are focused, over all if none is.

    Args:
        probabilities: (N, C), N ≥ 1.
        scores: the focus score of each slice; None if it is not focused.
        rule: as above.

    Raises:
        InputError: an unknown rule.
    """
    count = join_slices(rule)
    notices: tuple[Notice, ...] = ()
    slices = np.arange(len(probabilities))
    if count is not None:
        focused = [(-score, number) for number, score in enumerate(scores) if score is not None]
        if focused:
            slices = np.array(sorted(number for _, number in sorted(focused)[:count]))
        else:
            notices = (NONE_FOCUSED,)
    kept = probabilities[slices].astype(np.float64)  # (n, C)
    highest = kept.max(axis=0)
    answer = highest / highest.sum() if rule == "max" else kept.mean(axis=0)
    return Joined(answer, int(slices[kept[:, answer.argmax()].argmax()]), notices)
