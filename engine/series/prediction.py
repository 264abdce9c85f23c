"""The prediction for a study of several images, with its evidence: one of its slices."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from medfocus.engine.io.notices import Notice
from medfocus.engine.prediction import Prediction
from medfocus.errors import MedfocusError


@dataclass(frozen=True, eq=False)
class SeriesPrediction:
    """The prediction for the slices of one DICOM series or NIfTI volume.

    Attributes:
        source: the file, or the folder with a number: `study/ (series 1, 120 slices)`.
        label: the most probable class; None if there is an error.
        probabilities: of the slices, joined, by name, in the engine's order; read-only.
        slices: their predictions, in their order in the volume. Those with an error do not count.
        joined: how: `mean`, `max` or `focused:K`, as the engine's manifest says.
        evidence: index of the slice that speaks most for `label`; None if there is an error.
        warnings: how the study was put together, and those of its slices, each once: sentences,
            each with its `code`.
        error: why there is no prediction: that of the first slice, if all have one.
    """

    source: str
    label: str | None
    probabilities: Mapping[str, float]
    slices: tuple[Prediction, ...]
    joined: str
    evidence: int | None
    warnings: tuple[Notice, ...] = ()
    error: MedfocusError | None = None

    def __post_init__(self) -> None:
        read_only = MappingProxyType(dict(self.probabilities))
        object.__setattr__(self, "probabilities", read_only)

    def __reduce__(self) -> tuple[type["SeriesPrediction"], tuple[Any, ...]]:
        # A mapping proxy cannot be pickled, and predictions cross processes.
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {"probabilities": dict(self.probabilities)}
        return SeriesPrediction, tuple(values.values())

    @property
    def probability(self) -> float | None:
        """The probability of `label`; None if there is an error."""
        return None if self.label is None else self.probabilities[self.label]

    @property
    def evidence_slice(self) -> Prediction | None:
        """The prediction of the slice that speaks most for `label`."""
        return None if self.evidence is None else self.slices[self.evidence]

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The `k` most probable classes with their probabilities, the most probable first."""
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        return [(name, float(value)) for name, value in ranked[:k]]

    def to_dict(self) -> dict[str, Any]:
        """The prediction as plain JSON types, with those of its slices.

        It has the keys of a slice's own. `focused` and `focus_score` are those of the evidence.
        """
        evidence = self.evidence_slice
        score = None if evidence is None else evidence.focus_score
        return {
            "source": self.source,
            "label": self.label,
            "probabilities": {name: float(value) for name, value in self.probabilities.items()},
            "focused": evidence is not None and bool(evidence.focused),
            "focus_score": None if score is None else float(score),
            "warnings": [str(notice) for notice in self.warnings],
            "warning_codes": [notice.code for notice in self.warnings],
            "error": None if self.error is None else str(self.error),
            "joined": self.joined,
            "evidence": None if evidence is None else evidence.source,
            "slices": [each.to_dict() for each in self.slices],
        }
