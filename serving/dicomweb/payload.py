"""The instances that a Store request sends, streamed to disk (PS3.18, 10.5.2; RFC 2387)."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from tempfile import SpooledTemporaryFile

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from medfocus.serving.api.uploads import IN_MEMORY
from medfocus.serving.config import Limits
from medfocus.serving.errors import RequestError

RELATED, DICOM = "multipart/related", "application/dicom"
File = SpooledTemporaryFile[bytes]


@asynccontextmanager
async def sent_instances(request: Request, limits: Limits) -> AsyncIterator[list[File]]:
    """One file per instance, open at its start; beyond `IN_MEMORY` it is on disk until the end.

    Raises:
        RequestError: the request or a part of it is of another media type than DICOM
            (`serve.media_type`), malformed, without a part, or with too many (`serve.request`).
    """
    given, parameters = parse_options_header(request.headers.get("content-type"))
    kind = given.decode("latin-1")
    with ExitStack() as opened:
        parts = _Parts(opened, limits.images)
        if kind == DICOM:
            parts.on_part_begin()
            async for chunk in request.stream():
                parts.on_part_data(chunk, 0, len(chunk))
        elif kind == RELATED:
            _refuse_others(parameters.get(b"type", b""))
            try:
                await _split(request, parameters.get(b"boundary", b""), parts)
            except FormParserError:  # its text quotes the body
                raise _malformed("is no multipart message") from None
        else:
            raise _other_type(kind)
        for file in parts.files:
            file.seek(0)
        yield parts.files


async def _split(request: Request, boundary: bytes, parts: "_Parts") -> None:
    if not boundary:
        raise _malformed("has no boundary in its content type")
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": parts.on_part_begin,
            "on_header_field": parts.on_header_field,
            "on_header_value": parts.on_header_value,
            "on_header_end": parts.on_header_end,
            "on_part_data": parts.on_part_data,
            "on_end": parts.on_end,
        },
    )
    async for chunk in request.stream():
        parser.write(chunk)
    if not parts.ended:
        raise _malformed("ends before its last boundary")
    if not parts.files:
        raise _malformed("has no part")


class _Parts:
    """What the parser calls as it finds parts.

    Args:
        opened: closes their files.
        most: how many there may be.

    Attributes:
        files: of the parts.
        ended: whether the last boundary was there.
    """

    def __init__(self, opened: ExitStack, most: int) -> None:
        self._opened, self._most = opened, most
        self._field = self._value = b""
        self.files: list[File] = []
        self.ended = False

    def on_part_begin(self) -> None:
        """A part begins."""
        if len(self.files) == self._most:
            raise _malformed(f"has more than {self._most} parts")
        file = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        self.files.append(self._opened.enter_context(file))

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        """Bytes of a header's name."""
        self._field += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        """Bytes of a header's value."""
        self._value += data[start:end]

    def on_header_end(self) -> None:
        """A header is complete."""
        if self._field.lower() == b"content-type":
            _refuse_others(self._value)
        self._field = self._value = b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Bytes of a part."""
        self.files[-1].write(data[start:end])

    def on_end(self) -> None:
        """The last boundary."""
        self.ended = True


def _refuse_others(media_type: bytes) -> None:
    """Refuse parts that are not DICOM; those that do not say what they are may be."""
    kind = parse_options_header(media_type)[0].decode("latin-1")
    if kind not in ("", DICOM):
        raise _other_type(kind)


def _other_type(kind: str) -> RequestError:
    problem, hint = f"is of type {kind or 'unknown'}"[:80], f'send {RELATED}; type="{DICOM}"'
    return RequestError("request", problem, hint, code="serve.media_type")


def _malformed(problem: str) -> RequestError:
    return RequestError("request", problem, f"send one part per instance, as {RELATED}")
