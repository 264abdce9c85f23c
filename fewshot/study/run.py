"""One run of a study: an adaptation and its predictions on the test images."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medfocus.fewshot.evaluation.metrics import Metrics, measure
from medfocus.settings import FocusMode

Masks = Literal["found", "true", "random"]


@dataclass(frozen=True)
class Setting:
    """The configuration of a run.

    Attributes:
        dataset: its name.
        focus: the mode.
        masks: `found` by SAM2; `true`, those of the lesions; `random`, the found ones shifted.
        adaptation: the method, as for `fit_head`.
        amount: of training images: "5%", "16 shots"; "none" for zero-shot.
        seed: of the choice of training images and of the training.
    """

    dataset: str
    focus: FocusMode
    masks: Masks
    adaptation: str
    amount: str
    seed: int


@dataclass(frozen=True, eq=False)
class Run:
    """A setting and its results.

    Attributes:
        setting: the configuration.
        classes: C class names.
        labels: (N,) int64, the true class of each test image.
        probabilities: (N, C) float64, before temperature scaling.
        focused: (N,) bool, whether a region was found and steered CLIP.
        temperature: divides the logits; 1 if none was fitted.
        strength: λ of each layer.
        trained_on: number of training images.
        seconds: duration of the adaptation.
    """

    setting: Setting
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    focused: NDArray[np.bool_]
    temperature: float
    strength: tuple[float, ...]
    trained_on: int
    seconds: float

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(N,) whether each prediction is correct."""
        correct: NDArray[np.bool_] = self.probabilities.argmax(1) == self.labels
        return correct

    @property
    def calibrated(self) -> NDArray[np.float64]:
        """(N, C) the probabilities after temperature scaling: softmax(log p / T)."""
        powered = np.maximum(self.probabilities, 1e-30) ** (1 / self.temperature)
        calibrated: NDArray[np.float64] = powered / powered.sum(1, keepdims=True)
        return calibrated

    @property
    def metrics(self) -> Metrics:
        """The metrics before temperature scaling."""
        return measure(self.probabilities, self.labels)

    def to_json(self) -> dict[str, Any]:
        """All attributes as plain lists and numbers."""
        return {
            **asdict(self.setting),
            "classes": self.classes,
            "labels": self.labels.tolist(),
            "probabilities": self.probabilities.tolist(),
            "focused": self.focused.tolist(),
            "temperature": self.temperature,
            "strength": self.strength,
            "trained_on": self.trained_on,
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Run":
        """The inverse of `to_json`."""
        names = Setting.__dataclass_fields__
        return cls(
            setting=Setting(**{name: content[name] for name in names}),
            classes=tuple(content["classes"]),
            labels=np.array(content["labels"], np.int64),
            probabilities=np.array(content["probabilities"], np.float64),
            focused=np.array(content["focused"], np.bool_),
            temperature=content["temperature"],
            strength=tuple(content["strength"]),
            trained_on=content["trained_on"],
            seconds=content["seconds"],
        )
