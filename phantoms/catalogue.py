"""What a phantom can show: organs and kinds of lesion, and which kinds serve which study."""

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
        InputError: a margin or an interior that is not in `MARGINS`, `INTERIORS`.
    """

    margin: str
    interior: str

    def __post_init__(self) -> None:
        if self.margin not in MARGINS:
            raise InputError(f"margin {self.margin!r}", "unknown", f"Use one of {MARGINS}")
        if self.interior not in INTERIORS:
            raise InputError(f"interior {self.interior!r}", "unknown", f"Use one of {INTERIORS}")

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

# One kind an interior and at most two a margin, so that pre-training still sees every part often.
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
        InputError: an organ that is not in `ORGANS`.
    """
    check_organ(organ)
    modality = _MODALITIES[organ]
    return f"a {modality} with no lesion" if kind is None else f"a {kind.name} in a {modality}"


def check_organ(organ: str) -> None:
    """Raise `InputError` for an organ that is not in `ORGANS`."""
    if organ not in ORGANS:
        raise InputError(f"organ {organ!r}", "unknown", f"Use one of {ORGANS}")
