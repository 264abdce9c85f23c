"""One phantom: anatomy, lesions, acquisition, distractors, each with its own random generator."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medfocus.errors import InputError
from medfocus.phantoms.anatomies import ANATOMIES
from medfocus.phantoms.catalogue import ORGANS, LesionKind, check_organ
from medfocus.phantoms.distractors import add_distractors
from medfocus.phantoms.lesions import paint, place

_SMALLEST = 64


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic slice and its ground truth.

    Attributes:
        image: uint8 (H, W, 3).
        lesion_masks: bool (n, H, W), one per lesion.
        organ: one of `ORGANS`.
        kind: the kind of all its lesions; None when it has none.
    """

    image: npt.NDArray[np.uint8]
    lesion_masks: npt.NDArray[np.bool_]
    organ: str
    kind: LesionKind | None

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """The union of the lesions' masks, bool (H, W)."""
        union: npt.NDArray[np.bool_] = np.logical_or.reduce(self.lesion_masks, axis=0)
        return union


def make_phantom(
    seed: int, organ: str, kind: LesionKind | None, lesions: int = 1, size: int = 256
) -> Phantom:
    """Draw a phantom; the same arguments give exactly the same image.

    Phantoms with the same seed, organ, number of lesions and size differ only in the lesion itself:
    anatomy, lesion sites, noise and distractors do not depend on the kind. A phantom without a
    lesion is the healthy counterpart of the one with a single lesion.

    Args:
        seed: any integer from 0.
        organ: one of `ORGANS`.
        kind: the lesions' kind; None with `lesions=0`.
        lesions: 0, 1 or 2.
        size: side of the square image in pixels, at least 64.

    Raises:
        InputError: the organ is unknown, the seed is negative, the number of lesions is not 0, 1 or
            2 or contradicts the kind, or the image is too small.
    """
    check_organ(organ)
    if seed < 0:
        raise InputError(f"seed {seed}", "negative", "use an integer from 0")
    if lesions not in (0, 1, 2):
        raise InputError(f"lesions {lesions}", "not a valid number of lesions", "use 0, 1 or 2")
    if (kind is None) != (lesions == 0):
        raise InputError(
            f"kind {kind} with {lesions} lesions", "contradictory", "use kind None with 0 lesions"
        )
    if size < _SMALLEST:
        raise InputError(f"size {size}", "too small to show a lesion", f"use {_SMALLEST} or more")

    generators = np.random.default_rng([seed, ORGANS.index(organ)]).spawn(5)
    anatomy_rng, site_rng, lesion_rng, acquisition_rng, distractor_rng = generators
    module = ANATOMIES[organ]
    anatomy = module.draw(anatomy_rng, size)
    sites = place(site_rng, anatomy.room, max(1, lesions))
    masks = np.zeros((lesions, size, size), np.bool_)
    if kind is not None:
        for index, site in enumerate(sites):
            masks[index] = paint(lesion_rng, anatomy.tissue, site, kind)
    image = module.acquire(acquisition_rng, anatomy.tissue * anatomy.gain + anatomy.shade)
    grey = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    coloured = np.repeat(grey[:, :, None], 3, axis=2)
    return Phantom(add_distractors(distractor_rng, coloured, organ, sites), masks, organ, kind)
