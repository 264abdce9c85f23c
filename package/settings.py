"""How the models are used, as data: shared by the models, the export and the engine's manifest."""

import math
import re
from dataclasses import dataclass
from typing import Final, Literal, get_args

from medfocus.errors import InputError

FocusMode = Literal["none", "overlay", "soft", "hard"]
ResizeMode = Literal["shortest", "longest", "squash"]
Interpolation = Literal["bicubic", "bilinear"]
Device = Literal["cpu", "cuda"]
Rgb = tuple[float, float, float]

# SAM2's labels of prompt points (sam2/modeling/sam/prompt_encoder.py); -1 is no point.
BACKGROUND: Final = 0
FOREGROUND: Final = 1
BOX_TOP_LEFT: Final = 2
BOX_BOTTOM_RIGHT: Final = 3


CLASS_PLACE: Final = "{class}"  # in the template of a class prompt, the place of the class's name


def is_class_template(text: str) -> bool:
    """Whether a text is the template of a class prompt: {class} once, and no other brace."""
    before, place, after = text.partition(CLASS_PLACE)
    return bool(place) and not set("{}") & set(before + after) and text.isprintable()


def require(holds: bool, key: str, problem: str) -> None:
    """Raise InputError naming `key` unless `holds`."""
    if not holds:
        raise InputError(key, problem, "see medfocus.settings for the values of each key")


@dataclass(frozen=True)
class Focus:
    """How the focus mask steers CLIP.

    Attributes:
        mode: `none` plain CLIP, `overlay` the mask painted over the image, `soft` a bias on the
            attention logits, `hard` patches up to the threshold cannot be attended to.
        floor: ε in the bias λ·log(max(m, ε)), in (0, 1).
        hard_threshold: `hard` hides patches whose focus is not above it, in (0, 1).
    """

    mode: FocusMode = "soft"
    floor: float = 0.02
    hard_threshold: float = 0.1

    def __post_init__(self) -> None:
        require(self.mode in get_args(FocusMode), "mode", f"is {self.mode!r}, not a focus mode")
        require(0 < self.floor < 1, "floor", "is not between 0 and 1")
        require(0 < self.hard_threshold < 1, "hard_threshold", "is not between 0 and 1")

    @property
    def visible(self) -> float:
        """The patch focus that at least one patch must pass for an image to count as focused."""
        return self.hard_threshold if self.mode == "hard" else self.floor


@dataclass(frozen=True)
class Selection:
    """Which candidate masks may be the focus, and how they become one.

    Attributes:
        policy: `best` takes the highest score; `union` joins all that pass.
        min_area, max_area: fractions of the image that a candidate must cover.
        min_score: the lowest score, predicted IoU × stability, that passes.
        stability_offset: a mask's stability is the IoU of its cuts at logits > ±this.
    """

    policy: Literal["best", "union"] = "best"
    min_area: float = 0.002
    max_area: float = 0.6
    min_score: float = 0.3
    stability_offset: float = 1.0

    def __post_init__(self) -> None:
        require(self.policy in ("best", "union"), "policy", f"is {self.policy!r}, no policy")
        require(0 <= self.min_area < 1, "min_area", "is not in [0, 1)")
        require(self.min_area < self.max_area <= 1, "max_area", "is not in (min_area, 1]")
        require(0 <= self.min_score <= 1, "min_score", "is not in [0, 1]")
        finite = 0 <= self.stability_offset < math.inf
        require(finite, "stability_offset", "is not a finite number of at least 0")


@dataclass(frozen=True)
class Prompts:
    """The zero-shot prompt set: P prompts of n points each.

    `points` is (P, n, 2) as x, y in [0, 1] of the image's frame; `labels` is (P, n) in SAM2's
    convention: 1 inside, 0 outside, 2 and 3 a box's corners, -1 no point.
    """

    points: tuple[tuple[tuple[float, float], ...], ...]
    labels: tuple[tuple[Literal[-1, 0, 1, 2, 3], ...], ...]

    def __post_init__(self) -> None:
        counts = [len(prompt) for prompt in self.points]
        require(bool(counts) and min(counts) > 0, "points", "holds no prompt, or one of no points")
        require(len(set(counts)) == 1, "points", "holds prompts of different numbers of points")
        require(
            [len(prompt) for prompt in self.labels] == counts, "labels", "does not match points"
        )
        inside = all(0 <= x <= 1 and 0 <= y <= 1 for prompt in self.points for x, y in prompt)
        require(inside, "points", "holds a coordinate outside [0, 1]")


@dataclass(frozen=True)
class SegmenterInput:
    """SAM2's input: the image stretched to size×size, (x - mean) / std on RGB in [0, 1]."""

    size: int
    mean: Rgb
    std: Rgb

    def __post_init__(self) -> None:
        require(self.size > 0, "size", "is not positive")
        require(min(self.std) > 0, "std", "is not positive")


@dataclass(frozen=True)
class ClassifierInput:
    """CLIP's input, size×size, read by its image encoder as patch_grid×patch_grid patches."""

    size: int
    patch_grid: int
    resize_mode: ResizeMode
    interpolation: Interpolation
    mean: Rgb
    std: Rgb

    def __post_init__(self) -> None:
        require(self.size > 0, "size", "is not positive")
        require(0 < self.patch_grid <= self.size, "patch_grid", "is not between 1 and size")
        require(min(self.std) > 0, "std", "is not positive")


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image before each network."""

    segmenter: SegmenterInput
    classifier: ClassifierInput


def join_slices(rule: str) -> int | None:
    """K of the rule `focused:K` by which a series' slices are joined; None for `mean` and `max`.

    Raises:
        InputError: it is none of these.
    """
    found = re.fullmatch(r"mean|max|focused:([1-9][0-9]{0,3})", rule)
    if found is None:
        hint = "use mean, max or focused:K, where K is 1 to 9999 slices"
        raise InputError("join", "is no rule that joins slices", hint, code="input.unknown_choice")
    return int(found[1]) if found[1] else None
