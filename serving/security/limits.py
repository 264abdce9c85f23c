"""Limits on what a client sends: bytes of a body, and how slowly they may come."""

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medfocus.serving.config import Limits
from medfocus.serving.errors import RequestError
from medfocus.serving.problems import problem

LEAST_RATE = 1024  # bytes per second of a whole body, after its first `idle_seconds`


class BodyLimits:
    """A middleware that answers 413 or 408, and reads nothing more, where a body exceeds limits.

    Where the service ends before a request is answered, it answers 503.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limits, taken, complete, began = self._limits, 0, False, False
        start = time.monotonic()

        async def limited() -> Message:
            nonlocal taken, complete
            if complete:
                return await receive()  # waits for the client to go away
            spent = time.monotonic() - start
            patience = limits.idle_seconds + taken / LEAST_RATE - spent
            try:
                message = await asyncio.wait_for(receive(), min(patience, limits.idle_seconds))
            except TimeoutError:
                text = f"sent nothing for {limits.idle_seconds:g} s, or too slowly"
                hint = "send the whole request without a pause"
                raise RequestError("client", text, hint, code="serve.client_too_slow") from None
            if message["type"] == "http.disconnect":  # a framework would call that its own failure
                hint = "stay until the answer"
                raise RequestError("client", "is gone", hint, code="serve.gone")
            taken += len(message.get("body", b""))
            if taken > limits.body_bytes:
                raise self._too_large()
            complete = not message.get("more_body", False)
            return message

        async def watched(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            declared = dict(scope["headers"]).get(b"content-length", b"0")
            if declared.isdigit() and int(declared) > limits.body_bytes:
                raise self._too_large()
            await self._app(scope, limited, watched)
        except RequestError as error:
            if began:
                raise
            await problem(error)(scope, receive, send)
        except asyncio.CancelledError:  # `drain_seconds` are over
            if not began:
                hint = "send it again, to another service or later"
                ended = RequestError("service", "is stopping", hint, code="serve.stopping")
                await problem(ended)(scope, receive, send)
            raise

    def _too_large(self) -> RequestError:
        text = f"is larger than {self._limits.body_bytes} bytes"
        hint = "send fewer or smaller images per request"
        return RequestError("request", text, hint, code="serve.body_too_large")
