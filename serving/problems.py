"""Errors as HTTP answers: RFC 9457's application/problem+json, with our codes."""

import errno
import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from medfocus.errors import InputError, MedfocusError
from medfocus.serving.engines import RETRY_SECONDS
from medfocus.serving.errors import RequestError
from medfocus.serving.monitoring.access_log import CODE

log = logging.getLogger(__name__)

# By code; all other errors that name a client's input are 400, and the rest 500.
STATUSES = {
    "serve.unknown_engine": 404,
    "serve.unknown_version": 404,
    "serve.dicomweb_engine": 404,
    "serve.not_ready": 503,
    "device.failed": 503,
    "serve.busy": 429,
    "serve.no_token": 401,
    "serve.not_allowed": 403,
    "serve.body_too_large": 413,
    "serve.client_too_slow": 408,
    "serve.media_type": 415,
    "serve.not_acceptable": 406,
    "serve.deadline": 504,
    "serve.gone": 499,  # nobody sees it: the access log does
    "serve.stopping": 503,
    "serve.no_space": 503,
    "serve.origin": 403,
}
PROBLEM = "application/problem+json"


class Problem(BaseModel):
    """An error as clients see it.

    Attributes:
        status: HTTP's.
        code: for programs, see docs/errors.md.
        detail: what is wrong with the item.
        item: what the error is about.
        hint: what can be done about it.
    """

    status: int
    code: str
    detail: str
    item: str | None = None
    hint: str | None = None


# For the description of the interface: what any route may answer.
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {PROBLEM: {"schema": Problem.model_json_schema()}}}
    for status, text in (("4XX", "The request is refused."), ("5XX", "The service failed."))
}


def status_of(error: MedfocusError) -> int:
    """The HTTP status of an error that ends a request."""
    return STATUSES.get(error.code, 400 if isinstance(error, InputError) else 500)


def problem(error: MedfocusError) -> JSONResponse:
    """An error as an answer."""
    status, headers = status_of(error), {}
    if status in (429, 503):
        headers["Retry-After"] = str(RETRY_SECONDS)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _answer(
        status, error.problem, error.code, {"item": error.item, "hint": error.hint}, headers
    )


async def medfocus_problem(_: Request, error: Exception) -> JSONResponse:
    """A handler of MedfocusError."""
    assert isinstance(error, MedfocusError)
    return problem(error)


async def http_problem(_: Request, error: Exception) -> JSONResponse:
    """A handler of what the framework refuses: unknown addresses and methods."""
    assert isinstance(error, HTTPException)
    code = {404: "serve.not_found", 405: "serve.method"}.get(error.status_code, "serve.request")
    return _answer(error.status_code, str(error.detail), code, {}, error.headers)


async def invalid_problem(_: Request, error: Exception) -> JSONResponse:
    """A handler of parameters and bodies that do not fit their schema; values are not quoted."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    hint = "see /docs for what each field takes"
    return _answer(422, first["msg"], "serve.schema", {"item": place, "hint": hint})


async def space_problem(_: Request, error: Exception) -> JSONResponse:
    """A handler of OSError: of a disk that is full of uploads; no other is expected."""
    assert isinstance(error, OSError)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    log.error("no space is left in the folder for temporary files (TMPDIR): uploads are refused")
    hint = "send the request again later, or less in one"
    return problem(
        RequestError("service", "has no space for the upload", hint, code="serve.no_space")
    )


async def unexpected_problem(_: Request, error: Exception) -> JSONResponse:
    """A handler of everything else, whose text may quote a patient's data; the log says where."""
    detail = "failed; the service's log says where"
    return _answer(500, detail, "serve.failed", {}, {"Connection": "close"})  # uvicorn closes it


def _answer(
    status: int,
    detail: str,
    code: str,
    more: Mapping[str, str],
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    content = {"status": status, "code": code, "detail": detail, **more}
    return _Answer(content, status, dict(headers or {}), PROBLEM)


class _Answer(JSONResponse):
    """Problem details, but to the Open Inference Protocol's addresses an error in its form.

    Its code is left in the scope, for the access log around all that may answer.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        problem = json.loads(bytes(self.body))
        scope[CODE] = problem["code"]
        if scope["path"].startswith("/v2"):
            words = (problem.get(name) for name in ("item", "detail", "hint"))
            content = {"error": ": ".join(filter(None, words)), "code": problem["code"]}
            self.body = self.render(content)
            self.headers["content-length"] = str(len(self.body))
            self.headers["content-type"] = "application/json"
        await super().__call__(scope, receive, send)
