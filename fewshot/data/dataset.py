"""What every data set comes down to, whatever layout it was read from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Part = Literal["train", "test"]


@dataclass(frozen=True)
class Item:
    """One labelled file; every frame of it has the same label.

    Attributes:
        path: of the image.
        label: index of its class.
        group: what must not be torn apart by a split, a patient say; None where it is not known.
            It is never written anywhere.
        part: where the data set's authors put it; None in a data set that is one pool.
        masks: of its lesion, black and white and of the image's size; several are joined.
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
        name: what reports call it.
        root: the folder that all its paths lie in.
        classes: C class names.
        prompts: C class prompts, a sentence each.
        items: in the order of their paths.
    """

    name: str
    root: Path
    classes: tuple[str, ...]
    prompts: tuple[str, ...]
    items: tuple[Item, ...]
