"""The organs and lesion kinds of phantoms, and which kinds are used for what."""

from dataclasses import dataclass

from medfocus.errors import InputError

ORGANS: tuple[str, ...] = ("brain", "lung", "breast")
MARGINS: tuple[str, ...] = ("smooth", "lobulated", "spiculated", "hazy")
INTERIORS: tuple[str, ...] = ("solid", "hollow", "speckled", "septated", "layered", "target")

_MODALITIES = {"brain": "brain MRI slice", "lung": "chest X-ray", "breast": "breast ultrasound"}


@dataclass(frozen=True)
class LesionKind:
    """A lesion class: one margin and one interior.

    Raises:
        InputError: the margin is not in `MARGINS`, or the interior is not in `INTERIORS`.
    """

    margin: str
    interior: str

    def __post_init__(self) -> None:
        if self.margin not in MARGINS:
            raise _unknown("margin", self.margin, MARGINS)
        if self.interior not in INTERIORS:
            raise _unknown("interior", self.interior, INTERIORS)

    @property
    def name(self) -> str:
        """The class name, such as "spiculated hollow lesion"."""
        return f"{self.margin} {self.interior} lesion"


KINDS: tuple[LesionKind, ...] = tuple(
    LesionKind(margin, interior) for margin in MARGINS for interior in INTERIORS
)

# No two of the demonstration's classes share a margin or an interior.
DEMO_KINDS: tuple[LesionKind, ...] = (
    LesionKind("smooth", "layered"),
    LesionKind("lobulated", "target"),
    LesionKind("spiculated", "hollow"),
    LesionKind("hazy", "speckled"),
)

# One kind per interior and at most two per margin, so that pre-training still has many examples of
# every margin and interior.
FEWSHOT_KINDS: tuple[LesionKind, ...] = (
    *DEMO_KINDS,
    LesionKind("smooth", "septated"),
    LesionKind("spiculated", "solid"),
)

PRETRAINING_KINDS: tuple[LesionKind, ...] = tuple(
    kind for kind in KINDS if kind not in FEWSHOT_KINDS
)


def caption(kind: LesionKind | None, organ: str) -> str:
    """Describe a phantom in words, such as "a spiculated hollow lesion in a brain MRI slice".

    Raises:
        InputError: the organ is not in `ORGANS`.
    """
    check_organ(organ)
    modality = _MODALITIES[organ]
    return f"a {modality} with no lesion" if kind is None else f"a {kind.name} in a {modality}"


def check_organ(organ: str) -> None:
    """Raise `InputError` unless the organ is in `ORGANS`."""
    if organ not in ORGANS:
        raise _unknown("organ", organ, ORGANS)


def _unknown(name: str, value: str, known: tuple[str, ...]) -> InputError:
    return InputError(f"{name} {value!r}", "unknown", f"use one of {', '.join(known)}")
