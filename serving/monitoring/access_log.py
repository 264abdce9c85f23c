"""A JSON line per request, and its metrics: nothing of an image, its file's name or its tags."""

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medfocus.serving.monitoring import traces
from medfocus.serving.monitoring.metrics import Metrics

log = logging.getLogger("medfocus.access")
# W3C Trace Context, version 00: version, trace, parent, flags.
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
CODE = "medfocus.code"  # in an ASGI scope: of the error that is its answer
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

        headers = Headers(scope=scope)
        with traces.server_span(headers):
            try:
                await self._app(scope, received, sent)
            except Exception:
                scope[CODE] = "serve.failed"
                raise
            finally:
                log_request(
                    self._metrics,
                    method=scope["method"],
                    route=getattr(scope.get("route"), "path", UNKNOWN),
                    engine=scope.get("path_params", {}).get("name"),
                    status=status,
                    code=scope.get(CODE, ""),
                    seconds=time.perf_counter() - began,
                    sizes=sizes,
                    traceparent=headers.get("traceparent", ""),
                )


def log_request(
    metrics: Metrics,
    *,
    method: str,
    route: str,
    engine: str | None,
    status: int,
    code: str,
    seconds: float,
    sizes: Mapping[str, int],
    traceparent: str,
) -> None:
    """Log and count a request that has ended, and describe it in its trace.

    Args:
        metrics: that count it.
        method: HTTP's, or `gRPC`.
        route: without anything that a client chose.
        engine: that it was for, which is logged if it is served: a client may have sent any name;
            None for none.
        status: HTTP's.
        code: of the error that it was answered with; "" without one.
        seconds: that it took.
        sizes: bytes of bodies, `received` and `sent`.
        traceparent: the header of that name; "" for none.
    """
    metrics.request(route, status, seconds, code)
    traces.describe_request(method, route, status, code)
    if log.isEnabledFor(logging.INFO):
        trace = _TRACEPARENT.fullmatch(traceparent)
        fields = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "method": method,
            "route": route,
            "engine": engine if metrics.engines.serves(engine) else None,
            "status": status,
            "code": code or None,
            "seconds": round(seconds, 6),
            **sizes,
            "trace": trace and trace[1],
        }
        log.info(json.dumps({k: v for k, v in fields.items() if v is not None}))


def log_to_stdout() -> None:
    """Have the access log written to stdout, a line per request."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
