"""What a caller gives `Engine.classify` and `Engine.stream`, as sources paired with prompts."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, TypedDict

from PIL import Image

from medfocus.engine.io.images import ImageSource
from medfocus.engine.io.in_memory import InMemoryFile
from medfocus.engine.preprocess.prompts import Box, PerFrame, Points
from medfocus.engine.runtime.read_ahead import PromptedSource
from medfocus.errors import InputError

_MISSING: Any = object()


class ClassifyOptions(TypedDict, total=False):
    """`Engine.classify`'s options, whatever it groups: see there."""

    boxes: Sequence[PerFrame[Box] | None] | None
    points: Sequence[PerFrame[Points] | None] | None
    strict: bool
    embeddings: bool
    keep_masks: bool


class StreamOptions(TypedDict, total=False):
    """`Engine.stream`'s options, whatever it groups: see there."""

    boxes: Iterable[PerFrame[Box] | None] | None
    points: Iterable[PerFrame[Points] | None] | None
    batch_size: int | None
    embeddings: bool
    keep_masks: bool


def as_list(
    batch: ImageSource | Iterable[ImageSource],
    boxes: Sequence[PerFrame[Box] | None] | None,
    points: Sequence[PerFrame[Points] | None] | None,
) -> list[ImageSource]:
    """The images of a batch; a single image is a batch of one.

    Raises:
        InputError: the batch is empty, neither an image nor a collection, or has not one entry of
            boxes or points per image.
    """
    items = _as_list(batch)
    for prompts, name in ((boxes, "boxes"), (points, "points")):
        if prompts is not None and len(prompts) != len(items):
            problem = f"has {len(prompts)} entries for {len(items)} images"
            hint = "give one per image, None for an image that has none"
            raise InputError(name, problem, hint, code="input.count_mismatch")
    return items


def _as_list(batch: ImageSource | Iterable[ImageSource]) -> list[ImageSource]:
    if _is_one_image(batch):
        return [batch]  # type: ignore[list-item]
    try:
        items: list[ImageSource] = list(batch)  # type: ignore[arg-type]
    except TypeError:
        problem, hint = f"is a {type(batch).__name__}", "give a list of images, or one image"
        raise InputError("batch", problem, hint) from None
    if not items:
        raise InputError("batch", "is empty", "give at least one image", code="input.empty")
    return items


def with_prompts(
    sources: Iterable[ImageSource],
    boxes: Iterable[PerFrame[Box] | None] | None,
    points: Iterable[PerFrame[Points] | None] | None,
) -> Iterator[PromptedSource]:
    """Pair each source with its prompts, one source at a time.

    Raises:
        InputError: `sources` is a single image, or `boxes` or `points` is longer or shorter than
            `sources`.
    """
    if _is_one_image(sources):
        raise InputError("sources", "is one image", "give a list of it, or use classify")
    columns = [column for column in (boxes, points) if column is not None]
    for source, *prompts in zip_longest(sources, *columns, fillvalue=_MISSING):
        if any(value is _MISSING for value in (source, *prompts)):
            raise InputError(
                "boxes, points",
                "need one entry per source",
                "give None for a source that has none",
                code="input.count_mismatch",
            )
        box = None if boxes is None else prompts[0]
        yield PromptedSource(source, box, None if points is None else prompts[-1])


def _is_one_image(given: object) -> bool:
    """Whether it is an image itself, not a collection of images."""
    if isinstance(given, str | os.PathLike | Image.Image | InMemoryFile):
        return True
    return getattr(given, "ndim", None) in (2, 3)
