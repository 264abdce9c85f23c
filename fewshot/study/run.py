"""One adaptation and its answers on the test images, as a file."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medfocus.fewshot.evaluation.metrics import Metrics, measure
from medfocus.settings import FocusMode

Masks = Literal["found", "true", "random"]


@dataclass(frozen=True)
class Setting:
    """What was run.

    Attributes:
        dataset: its name.
        focus: the mode.
        masks: `found` by SAM2; `true`, the lesions' own; `random`, the found ones moved elsewhere.
        adaptation: a name from `fewshot.adapt`.
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
    """A setting and what came of it.

    Attributes:
        setting: what was run.
        classes: C class names.
        labels: (N,) int64, the truth of each test image.
        probabilities: (N, C) float64, before temperature scaling.
        focused: (N,) bool, which images were steered.
        temperature: what the logits are divided by; 1 where nothing was fitted.
        strength: λ of each layer.
        trained_on: how many images it learned from.
        seconds: of the adaptation alone.
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
    def right(self) -> NDArray[np.bool_]:
        """(N,) which answers are right."""
        right: NDArray[np.bool_] = self.probabilities.argmax(1) == self.labels
        return right

    @property
    def calibrated(self) -> NDArray[np.float64]:
        """(N, C) the probabilities after temperature scaling: softmax(log p / T)."""
        powered = np.maximum(self.probabilities, 1e-30) ** (1 / self.temperature)
        calibrated: NDArray[np.float64] = powered / powered.sum(1, keepdims=True)
        return calibrated

    @property
    def metrics(self) -> Metrics:
        """Of the answers, before temperature scaling."""
        return measure(self.probabilities, self.labels)

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain lists and numbers."""
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
        """What `to_json` gave."""
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
