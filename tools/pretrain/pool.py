"""The phantoms that the `tiny` preset is trained and evaluated on."""

from dataclasses import dataclass

import numpy as np
from rich.progress import track

from medfocus.phantoms import ORGANS, PRETRAINING_KINDS, LesionKind, Phantom, make_phantom

# First seeds; the two ranges do not overlap.
TRAINING_SEEDS, HELD_OUT_SEEDS = 0, 10_000_000

NO_LESION, ONE_LESION = 0.1, 0.9  # cumulative: a tenth has none, a tenth has two


@dataclass(frozen=True)
class Sample:
    """A training phantom.

    Attributes:
        image: (H, W, 3) uint8.
        masks: (n, H, W) bool, one per lesion.
        organ: its name.
        kind: of the lesions; None if there are none.
    """

    image: np.ndarray
    masks: np.ndarray
    organ: str
    kind: LesionKind | None


def draw_phantom(seed: int, kinds: tuple[LesionKind, ...] = PRETRAINING_KINDS) -> Phantom:
    """The phantom of a seed, with random organ, kind and number of lesions."""
    random = np.random.default_rng((seed, 1))
    organ = ORGANS[random.integers(len(ORGANS))]
    kind = kinds[random.integers(len(kinds))]
    share = random.random()
    if share < NO_LESION:
        return make_phantom(seed, organ, None, lesions=0)
    return make_phantom(seed, organ, kind, lesions=1 if share < ONE_LESION else 2)


def draw_pool(
    first_seed: int, count: int, kinds: tuple[LesionKind, ...] = PRETRAINING_KINDS
) -> list[Sample]:
    """`count` phantoms from consecutive seeds."""
    pool = []
    for seed in track(range(first_seed, first_seed + count), f"drawing {count} phantoms"):
        phantom = draw_phantom(seed, kinds)
        pool.append(Sample(phantom.image, phantom.lesion_masks, phantom.organ, phantom.kind))
    return pool
