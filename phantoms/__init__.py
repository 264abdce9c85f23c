"""Synthetic medical slices with lesions of known kind and known outline, made by code alone."""

from medfocus.phantoms.catalogue import (
    DEMO_KINDS,
    FEWSHOT_KINDS,
    INTERIORS,
    KINDS,
    MARGINS,
    ORGANS,
    PRETRAINING_KINDS,
    LesionKind,
    caption,
)
from medfocus.phantoms.phantom import Phantom, make_phantom

__all__ = [
    "DEMO_KINDS",
    "FEWSHOT_KINDS",
    "INTERIORS",
    "KINDS",
    "MARGINS",
    "ORGANS",
    "PRETRAINING_KINDS",
    "LesionKind",
    "Phantom",
    "caption",
    "make_phantom",
]
