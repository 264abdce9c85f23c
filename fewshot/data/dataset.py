"""The in-memory form of a labelled data set, independent of its layout on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Part = Literal["train", "test"]


@dataclass(frozen=True)
class Item:
    """One labelled file; all its frames share the label.

    Attributes:
        path: of the image.
        label: index of its class.
        group: what a split keeps together, such as a patient; None if unknown. It is never
            written to a file.
        part: assigned by the data set's authors; None if the data set has no parts.
        masks: black-and-white images of its lesion, of the image's size; their union is used.
    """

    path: Path
    label: int
    group: str | None = None
    part: Part | None = None
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Labelled files.

    Attributes:
        name: shown in reports.
        root: the folder that contains all its paths.
        classes: C class names.
        prompts: C class prompts, one sentence per class.
        items: sorted by path.
        notes: what reading it took for granted, for its user.
    """

    name: str
    root: Path
    classes: tuple[str, ...]
    prompts: tuple[str, ...]
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()
