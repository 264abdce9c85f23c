"""A JSON line per request, and its metrics: nothing of an image, its file's name or its tags."""

import json
import logging
import re
import sys
import time
from datetime import UTC, datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medfocus.serving.monitoring.metrics import Metrics

log = logging.getLogger("medfocus.access")
# W3C Trace Context, version 00: version, trace, parent, flags.
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
UNKNOWN = "unknown"  # the route of an address that there is not: it may hold anything


class AccessLog:
    """A middleware that logs and counts each request when its answer has been sent."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, sizes = time.perf_counter(), 500, {"received": 0, "sent": 0}

        async def received() -> Message:
            message = await receive()
            sizes["received"] += len(message.get("body", b""))
            return message

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            sizes["sent"] += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, received, sent)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", UNKNOWN)
            self._metrics.request(route, status, seconds)
            if log.isEnabledFor(logging.INFO):
                fields = {
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "method": scope["method"],
                    "route": route,
                    "engine": scope.get("path_params", {}).get("name"),
                    "status": status,
                    "seconds": round(seconds, 6),
                    **sizes,
                    "trace": _trace(scope),
                }
                log.info(json.dumps({k: v for k, v in fields.items() if v is not None}))


def log_to_stdout() -> None:
    """Have the access log written to stdout, a line per request."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def _trace(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"traceparent" and (match := _TRACEPARENT.fullmatch(value.decode("latin-1"))):
            return match[1]
    return None
