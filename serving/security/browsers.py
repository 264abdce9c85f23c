"""What a browser may do with the service: only pages of its own may call it."""

import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medfocus.serving.errors import RequestError
from medfocus.serving.problems import problem
from medfocus.serving.state import Service

PAGES = ("/docs", "/static-offline-docs")  # the page for trying requests, and what it loads
# What is not a page needs nothing; that page has scripts and styles within itself.
_NOTHING = "default-src 'none'; frame-ancestors 'none'"
_DOCS = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; frame-ancestors 'none'"
)


class BrowserGuard:
    """A middleware that refuses requests from other sites' pages, and forbids framing and guessing.

    Without tokens, a page elsewhere could send a form to any address that the browser reaches,
    this machine's too, and with a name that resolves to this machine read the answer as well (DNS
    rebinding). With tokens it has none to send.

    Args:
        app: the application.
        service: that the requests come to.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        self._secure = service.config.security.certificate is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add(MutableHeaders(scope=message), scope["path"])
            await send(message)

        error = self._refused(Headers(scope=scope))
        if error is None:
            await self._app(scope, receive, guarded)
        else:
            await problem(error)(scope, receive, guarded)

    def _refused(self, headers: Headers) -> RequestError | None:
        if self._service.tokens is not None:
            return None
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._service.config.loopback and not _names_this_machine(host):
            hint = "use the address that the service listens on"
            return RequestError("Host", "does not name this machine", hint, code="serve.origin")
        own = urlsplit(origin or "").netloc.lower() == host.lower() and _is_no_others(host)
        if origin is not None and not own:
            problem, hint = "is a page of another site", "send requests from a program"
            return RequestError("Origin", problem, hint, code="serve.origin")
        return None

    def _add(self, headers: MutableHeaders, path: str) -> None:
        headers["content-security-policy"] = _DOCS if path.startswith(PAGES) else _NOTHING
        headers["x-content-type-options"] = "nosniff"
        headers["referrer-policy"] = "no-referrer"
        headers["cross-origin-resource-policy"] = "same-origin"
        headers.setdefault("cache-control", "no-store")
        if self._secure:
            headers["strict-transport-security"] = "max-age=31536000"


def _is_no_others(host: str) -> bool:
    """Whether nobody else can let this name mean this machine: an address, or its own name."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in ("localhost", socket.gethostname().lower()) or bool(ip_address(name))
    except ValueError:
        return False


def _names_this_machine(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
