"""How long an HTTP request is worked on: its own limit, and until its client goes away."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from medfocus.serving.errors import RequestError

TIMEOUT_HEADER = "x-request-timeout"  # seconds

T = TypeVar("T")


def seconds_of(request: Request, most: float) -> float:
    """Seconds that a request allows itself, at most `most`.

    Raises:
        RequestError: its header is not a positive number (`serve.request`).
    """
    text = request.headers.get(TIMEOUT_HEADER)
    try:
        seconds = most if text is None else float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise RequestError(TIMEOUT_HEADER, "is not a number of seconds", "send one above 0")
    return min(seconds, most)


async def unless_gone(request: Request, answer: Coroutine[Any, Any, T]) -> T:
    """Await an answer, and cancel it once the client has closed the connection.

    Args:
        request: whose body has been read.
        answer: computes what the client waits for.

    Raises:
        RequestError: the client is gone (`serve.gone`).
    """
    working, leaving = asyncio.ensure_future(answer), asyncio.ensure_future(_gone(request))
    either: set[asyncio.Future[Any]] = {working, leaving}
    try:
        await asyncio.wait(either, return_when="FIRST_COMPLETED")
        if working.done():
            return working.result()
        raise RequestError("client", "is gone", "stay until the answer", code="serve.gone")
    finally:
        working.cancel()
        leaving.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
