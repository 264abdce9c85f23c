"""Requests to a service: where it is, who asks, how long they wait, and what goes wrong."""

import asyncio
import os
import re
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medfocus.errors import FileError, InputError
from medfocus.files.file_errors import unreadable
from medfocus.serving.client.answers import problem_of
from medfocus.serving.errors import RequestError, ServiceError

try:
    import h11
    import httpx
except ModuleNotFoundError:
    raise InputError(
        "client", "needs httpx", "pip install 'medfocus[client]'", code="input.package_missing"
    ) from None

AT_ONCE = 32  # requests under way: enough to fill an engine's batches
TOKEN_VARIABLE = "MEDFOCUS_TOKEN"
_CONNECT_SECONDS = 10.0
_GRACE_SECONDS = 10.0  # beyond what the service was allowed, for its answer to arrive
_OUT_OF_TIME = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID and _HAS_EXPIRED of OpenSSL's x509_vfy.h
_RETRY_SECONDS = 1.0  # where a service that is busy does not say when to ask again
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1


class Connection:
    """A service, and the credentials for it. Opens no connection before the first request.

    Proxies, `.netrc` and other settings of the environment for HTTP clients are not followed, and
    redirects neither: images go where the URL says and nowhere else.

    Args:
        url: of the service, as `https://host:8443`.
        token: None for that of the environment variable `MEDFOCUS_TOKEN`, if there is one.
        timeout: seconds that the service may take for an answer, and for which a request is sent
            again while the service is busy.
        verify: a PEM file with the certificates of authorities to trust; None for the system's.

    Raises:
        InputError: a URL or a token that is none (`serve.url`, `serve.token`).
        FileError: `verify` cannot be read, or holds no certificate.
    """

    def __init__(
        self, url: str, token: str | None, timeout: float, verify: str | os.PathLike[str] | None
    ) -> None:
        self.url = _checked_url(url)
        self._timeout = timeout
        headers = {"x-request-timeout": f"{timeout:g}", "accept": "application/json"}
        token = os.environ.get(TOKEN_VARIABLE) if token is None else token
        if token is not None:
            if not _TOKEN.fullmatch(token):
                hint = "give the characters of the service's token file, after the role"
                raise InputError("token", "is no bearer token", hint, code="serve.token")
            headers["authorization"] = f"Bearer {token}"
        self._http = httpx.AsyncClient(
            headers=headers,
            verify=_trusted(verify) if self.url.startswith("https:") else False,
            timeout=httpx.Timeout(timeout + _GRACE_SECONDS, connect=_CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE),
            follow_redirects=False,
            trust_env=False,
        )

    async def get(self, path: str) -> bytes:
        """The body of a resource; see `post`."""
        return await self._asked("GET", path, {})

    async def post(self, path: str, content: Mapping[str, Any]) -> bytes:
        """The body of the answer to a request, which is sent again while the service is busy.

        Args:
            path: below the service's URL, begins with a slash.
            content: httpx's `data`, `files`.

        Raises:
            ServiceError: it cannot be reached (`serve.unreachable`, `serve.untrusted`), ends the
                connection or keeps silent (`serve.no_answer`), or does not answer as this service
                does (`serve.unexpected`).
            MedfocusError: what the service answers.
            OSError: a file of the content cannot be read.
        """
        return await self._asked("POST", path, content)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _asked(self, method: str, path: str, content: Mapping[str, Any]) -> bytes:
        deadline = time.monotonic() + self._timeout
        while True:
            response = await self._sent(method, path, content)
            if response.status_code == httpx.codes.OK:
                return response.content
            pause = _pause(response)
            busy = response.status_code == httpx.codes.TOO_MANY_REQUESTS
            if not busy or time.monotonic() + pause > deadline:
                raise problem_of(response.content, response.status_code, self.url)
            await asyncio.sleep(pause)

    async def _sent(self, method: str, path: str, content: Mapping[str, Any]) -> httpx.Response:
        try:
            return await self._http.request(method, self.url + path, **content)
        # It is no longer as long as its header says; httpx lets one of h11's errors through.
        except (httpx.LocalProtocolError, h11.LocalProtocolError):
            problem, hint = "changed while it was sent", "send it again"
            raise RequestError("request", problem, hint) from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if (distrust := _distrust(error)) is not None:
                raise ServiceError(self.url, *distrust, code="serve.untrusted") from None
            hint = f"check the address, and that the service runs: curl {self.url}/livez"
            raise ServiceError(self.url, "cannot be reached", hint) from None
        except httpx.TimeoutException:
            problem = f"was silent for {self._timeout + _GRACE_SECONDS:g} s"
            hint = "send fewer images at once, or allow it more time"
            raise ServiceError(self.url, problem, hint, code="serve.no_answer") from None
        except (httpx.TransportError, ssl.SSLError):
            problem, hint = "closed the connection before it answered", "send the request again"
            raise ServiceError(self.url, problem, hint, code="serve.no_answer") from None


def read_token(path: Path) -> str:
    """The token that is alone in a file.

    Raises:
        FileError: it cannot be read.
        InputError: it holds something else (`serve.token`). Nothing of it is quoted.
    """
    try:
        token = path.read_text("ascii").strip()
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError:
        token = ""
    if not _TOKEN.fullmatch(token):
        hint = "write nothing but the token into it"
        raise InputError(str(path), "holds no bearer token", hint, code="serve.token")
    return token


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.port is None or parts.port > 0
    except ValueError:
        usable = False
    usable = usable and parts.scheme in ("http", "https") and bool(parts.hostname)
    if not usable or parts.username is not None or parts.query or parts.fragment:
        # Not quoted: it may hold a password.
        hint = "give it as http://127.0.0.1:8000 or https://host:8443"
        raise InputError("url", "is not the address of a service", hint, code="serve.url")
    return url.rstrip("/")


def _trusted(verify: str | os.PathLike[str] | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=verify)
    except OSError:  # ssl.SSLError too
        hint = "give a PEM file with the certificate of the service's authority"
        item = "verify" if verify is None else os.fspath(verify)
        problem = "cannot be read, or holds no certificate"
        raise FileError(item, problem, hint, code="serve.certificate") from None


def _distrust(error: BaseException) -> tuple[str, str] | None:
    """What is wrong with the service's certificate, if that is what failed, and a hint."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            if cause.verify_code in _OUT_OF_TIME:
                problem = "has a certificate that has expired, or is not valid yet"
                return problem, "have its certificate renewed, or check this machine's clock"
            problem = "has a certificate that is not trusted, or of another name"
            hint = "name the file of its authority: SSL_CERT_FILE=ca.pem, Client(verify='ca.pem')"
            return problem, hint
        cause = cause.__cause__ or cause.__context__
    return None


def _pause(response: httpx.Response) -> float:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else _RETRY_SECONDS
