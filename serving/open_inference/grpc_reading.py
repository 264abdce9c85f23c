"""A call's message: received and parsed while few others are, as the library has no such limit.

The library refuses a message above `body_bytes` before it is received; it does not know who
sends it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from anyio import to_thread
from google.protobuf.message import DecodeError

from medfocus.serving.body_memory import SMALL
from medfocus.serving.errors import RequestError
from medfocus.serving.inference import within
from medfocus.serving.open_inference.grpc_methods import Method
from medfocus.serving.state import Service

MOST_RECEIVED = 4  # messages at once, of whoever may send large ones
MOST_OPEN_RECEIVED = 8  # and of whoever else
MOST_OPEN_BYTES = 4096  # of a message that anybody may send: a name and a version
OPEN_SECONDS = 5.0  # for such a message to come
MOST_FIELDS = 1024  # of a message with all its parts, besides its images
# Fields of a request to infer of whose parts there may be many: inputs, their contents, outputs.
_NESTED = {(5,), (5, 5), (6,)}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


@dataclass(frozen=True)
class Reader:
    """Reads the messages of one server.

    Attributes:
        service: whose limits hold.
    """

    service: Service
    _known: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(MOST_RECEIVED), init=False
    )
    _open: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(MOST_OPEN_RECEIVED), init=False
    )

    async def message(
        self, method: Method, messages: AsyncIterator[bytes], take: Callable[[int], None]
    ) -> tuple[Any, int]:
        """A call's message, and its size in bytes.

        Args:
            method: that is called, by one who may.
            messages: of the call.
            take: takes memory, see `BodyMemory`.

        Raises:
            RequestError: there is none, or it is malformed (`serve.request`), too large
                (`serve.body_too_large`), or does not come in time (`serve.deadline`).
            BusyError: there is no memory for it.
        """
        if not method.request.DESCRIPTOR.fields:  # nothing to read
            return method.request(), 0
        limits = self.service.config.limits
        if method.role is None:
            content = await within(OPEN_SECONDS, _first(messages, self._open))
            if len(content) > MOST_OPEN_BYTES:
                problem, hint = f"is larger than {MOST_OPEN_BYTES} bytes", "send a name"
                raise RequestError("message", problem, hint, code="serve.body_too_large")
        else:
            content = await within(limits.seconds, _first(messages, self._known))
            take(len(content))
        most = MOST_FIELDS + limits.images
        if len(content) <= SMALL:  # sooner than a thread is found
            return parsed(method.request, content, most), len(content)
        limiter = self.service.bodies.limiter(len(content))
        run = to_thread.run_sync
        return await run(parsed, method.request, content, most, limiter=limiter), len(content)


async def _first(messages: AsyncIterator[bytes], turn: asyncio.Semaphore) -> bytes:
    async with turn:
        async for message in messages:
            return message
    raise RequestError("call", "has no message, or one that is too large", "send one message")


def parsed(kind: Any, content: bytes, most: int) -> Any:
    """A message from its bytes.

    Args:
        kind: its class.
        content: the bytes.
        most: fields that it and its parts may have: an empty part of two bytes would take a
            hundred in memory.

    Raises:
        RequestError: it is malformed, or has more (`serve.request`).
    """
    try:
        _count(memoryview(content), (), most)
        return kind.FromString(content)
    except (DecodeError, IndexError):
        hint = "send a message of the protocol"
        raise RequestError("message", "is malformed", hint) from None


def _count(content: memoryview, path: tuple[int, ...], left: int) -> int:
    """How many fields may still come after those of a message.

    https://protobuf.dev/programming-guides/encoding; numbers in a row are one field.
    """
    at = 0
    while at < len(content):
        left -= 1
        if left < 0:
            hint = "send each tensor once, and its elements packed or as raw contents"
            raise RequestError("message", "has too many fields", hint)
        tag, at = _varint(content, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            _, at = _varint(content, at)
        elif wire == _BYTES:
            size, at = _varint(content, at)
            own = (*path, number)
            if own in _NESTED:
                left = _count(content[at : at + size], own, left)
            at += size
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:  # groups, which the protocol has not
            raise DecodeError
    return left


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """A number of at most ten bytes, and where it ends; IndexError where it does not."""
    found = 0
    for place in range(10):
        byte = content[at + place]
        found |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return found, at + place + 1
    raise DecodeError
