"""The three forms of a request to classify: files of a form, the bytes of one file, JSON."""

import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import Annotated, Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from starlette.datastructures import UploadFile

from medfocus.engine.io.in_memory import InMemoryFile
from medfocus.engine.preprocess.prompts import MOST_POINTS
from medfocus.serving.answers.predictions import MaskFormat
from medfocus.serving.config import MEBIBYTE, MOST_JSON_BYTES, Limits
from medfocus.serving.errors import RequestError
from medfocus.serving.state import service_of

FORM, JSON = "multipart/form-data", "application/json"
BINARY = ("application/octet-stream", "application/dicom", "image/")
OPTIONS = "options"  # the field of a form that holds them, as JSON
IN_MEMORY = MEBIBYTE  # bytes of an upload; more go to a temporary file

M = TypeVar("M", bound=BaseModel)


def _decoded(text: object) -> bytes:
    """What a text in Base64 stands for; pydantic's own type skips what is no Base64.

    Raises:
        ValueError: also for another type, as pydantic refuses only by it.
    """
    if not isinstance(text, str):
        raise ValueError("is no text")
    return base64.b64decode(text, validate=True)


Encoded = Annotated[
    bytes,
    BeforeValidator(_decoded),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
Number = Annotated[float, Field(allow_inf_nan=False)]
Box = Annotated[list[Number], Field(min_length=4, max_length=4)]
Point = Annotated[list[Number], Field(min_length=2, max_length=3)]
Points = Annotated[list[Point], Field(max_length=MOST_POINTS)]


class Options(BaseModel):
    """What a request asks for.

    Attributes:
        boxes: per file [left, top, right, bottom] in pixels of the image, or null; for a file of
            several frames also {frame: box}, from 0.
        points: per file [[x, y] or [x, y, label], ...], label 1 for inside and 0 for outside; or
            null; or {frame: points}.
        mask: `png`, `rle`, `polygon` or `logits` to have each image's focus mask; null for none.
        embedding: whether to have each image's embedding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    boxes: list[Box | dict[int, Box] | None] | None = None
    points: list[Points | dict[int, Points] | None] | None = None
    mask: MaskFormat | None = None
    embedding: bool = False


class Body(Options):
    """A request in JSON.

    Attributes:
        images: whole files, in base64.
    """

    images: list[Encoded] = Field(min_length=1)


@dataclass(frozen=True)
class Upload:
    """What was sent.

    Attributes:
        files: whole files.
        options: what is asked for.
    """

    files: list[InMemoryFile]
    options: Options


@asynccontextmanager
async def received(request: Request, limits: Limits) -> AsyncIterator[Upload]:
    """The files and options of a request; files beyond `IN_MEMORY` are on disk until the end.

    Raises:
        RequestError: of another media type (`serve.media_type`), malformed, without a file, or
            with too many (`serve.request`).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == FORM:
        async with request.form(
            max_files=limits.images, max_fields=1, max_part_size=MEBIBYTE
        ) as form:
            files = [value.file for _, value in form.multi_items() if isinstance(value, UploadFile)]
            options = form.get(OPTIONS, "{}")
            yield Upload([*files], _parsed(Options, options if isinstance(options, str) else "{}"))
    elif kind == JSON:
        with service_of(request).bodies.share() as take:
            body = _parsed(Body, await _json(request, take))
            yield Upload([*body.images], body)
    elif kind.startswith(BINARY):
        with SpooledTemporaryFile(IN_MEMORY) as file:
            async for chunk in request.stream():
                file.write(chunk)
            file.seek(0)
            query = {name: value for name, value in request.query_params.items() if name == "mask"}
            query |= {"embedding": request.query_params.get("embedding", "false")}
            yield Upload([file], _validated(Options, query))
    else:
        problem = f"is of type {kind or 'unknown'}"[:80]
        hint = f"send {FORM}, {JSON}, or one file as application/octet-stream"
        raise RequestError("request", problem, hint, code="serve.media_type")


async def _json(request: Request, take: Callable[[int], None]) -> bytes:
    content = bytearray()
    async for chunk in request.stream():
        take(len(chunk))
        content += chunk
        if len(content) > MOST_JSON_BYTES:
            problem, hint = f"has more than {MOST_JSON_BYTES} bytes of JSON", "send files as a form"
            raise RequestError("request", problem, hint, code="serve.body_too_large")
    return bytes(content)


def _parsed(model: type[M], text: str | bytes) -> M:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise _malformed(error) from None


def _validated(model: type[M], values: dict[str, Any]) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _malformed(error) from None


def _malformed(error: ValidationError) -> RequestError:
    """The first thing that is wrong, without the value."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "body"
    return RequestError(place, f"is malformed ({first['type']})", "see /docs for its form")
