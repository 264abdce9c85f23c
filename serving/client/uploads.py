"""A caller's source as what is sent of it: a file, and what is asked of the engine."""

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from PIL import Image

from medfocus.engine.io.image_file import check_by_name, open_path
from medfocus.engine.io.images import MAX_PIXELS, converted
from medfocus.engine.io.in_memory import InMemoryFile, copied
from medfocus.engine.io.notices import Notice
from medfocus.engine.prediction import Prediction
from medfocus.engine.preprocess.prompts import PerFrame, own_prompt
from medfocus.engine.runtime.read_ahead import PromptedSource, source_name
from medfocus.errors import MedfocusError

_SENT_AS = "item 0"  # what the service calls the only file of a request
_ANY_SIZE = 2**31, 2**31  # of an image in pixels: which it is, only the service knows

_Prompt = TypeVar("_Prompt")


@dataclass(frozen=True)
class Upload:
    """One source, ready to be sent.

    Attributes:
        name: of the source, as the engine itself would call it; it is not sent.
        file: at its start.
        options: of the request, in JSON.
        warnings: of an image that was converted here.
    """

    name: str
    file: BinaryIO
    options: str
    warnings: tuple[Notice, ...] = ()

    @property
    def content(self) -> dict[str, Any]:
        """As httpx sends it; the file has a name without meaning."""
        part = ("0", self.file, "application/octet-stream")
        return {"files": [("files", part)], "data": {"options": self.options}}

    def named(self, prediction: Prediction) -> Prediction:
        """A prediction of the service, with this source's name and warnings."""
        return replace(
            prediction,
            source=prediction.source.replace(_SENT_AS, self.name, 1),
            warnings=(*self.warnings, *prediction.warnings),
            error=None if prediction.error is None else self.named_error(prediction.error),
        )

    def named_error(self, error: MedfocusError) -> MedfocusError:
        """An error of the service, about this source."""
        item = self.name if error.item == "request" else error.item.replace(_SENT_AS, self.name, 1)
        problem, hint = (text.replace(_SENT_AS, self.name) for text in (error.problem, error.hint))
        return type(error)(item, problem, hint, code=error.code)


def upload_of(item: PromptedSource, number: int, embeddings: bool, keep_masks: bool) -> Upload:
    """Open a file, copy one in memory, or convert an image in memory to PNG, without loss.

    Args:
        item: the source.
        number: of it, from 0.
        embeddings, keep_masks: see `Engine.classify`.

    Raises:
        ImageError: as `Engine.classify` would have it, as far as it can be told here.
        InputError: malformed prompts.
    """
    name, source = item.name or source_name(item.source, number), item.source
    warnings: tuple[Notice, ...] = ()
    options = _options(item, name) | {"embedding": embeddings}
    text = json.dumps(options | {"mask": "logits" if keep_masks else None})
    if isinstance(source, str | os.PathLike):
        file = open_path(Path(source), name)
        try:
            check_by_name(file, name, MAX_PIXELS)
        except BaseException:
            file.close()
            raise
        # So that a slow disk reads ahead what the network waits for.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
    elif isinstance(source, InMemoryFile):
        file = copied(source, name)
    else:
        image = converted(source, name)
        file, warnings = io.BytesIO(), image.warnings
        Image.fromarray(image.pixels).save(file, "PNG", compress_level=1)
    return Upload(name, file, text, warnings)


def _options(item: PromptedSource, name: str) -> dict[str, Any]:
    """Prompts as JSON has them; those that are malformed for any image are refused here."""
    options: dict[str, Any] = {}
    if item.box is not None:
        for of, box in _each(item.box, name):
            own_prompt(box, None, *_ANY_SIZE, of)
        options["boxes"] = [_plain(item.box)]
    if item.points is not None:
        for of, points in _each(item.points, name):
            if len(points) or item.box is None:
                own_prompt(None, points, *_ANY_SIZE, of)
        options["points"] = [_plain(item.points)]
    return options


def _each(prompt: PerFrame[_Prompt], name: str) -> Iterator[tuple[str, _Prompt]]:
    """The prompts of a file, and the name of what each is for."""
    if isinstance(prompt, Mapping):
        yield from ((f"{name}#{frame}", one) for frame, one in prompt.items())
    else:
        yield name, prompt


def _plain(prompt: Any) -> Any:
    """A box, points, or a mapping of frames to them, of whatever sequences and numbers."""
    if isinstance(prompt, Mapping):
        return {str(frame): _plain(one) for frame, one in prompt.items()}
    return [_plain(each) if isinstance(each, Iterable) else float(each) for each in prompt]
