"""Who may use a route: a dependency of FastAPI."""

from collections.abc import Callable

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from medfocus.serving.problems import RequestError
from medfocus.serving.security.tokens import Role, allows
from medfocus.serving.state import service_of

_scheme = HTTPBearer(auto_error=False, description="a token of the service's token file")


def needs(wanted: Role) -> Callable[..., None]:
    """A dependency that refuses whoever may not do what `wanted` may.

    Raises:
        RequestError: no token or an unknown one (`serve.no_token`), or one of a lesser role
            (`serve.not_allowed`).
    """

    def check(request: Request, _: object = Depends(_scheme)) -> None:
        tokens = service_of(request).tokens
        if tokens is None:
            return
        role = tokens.role(request.headers.get("authorization"))
        if role is None:
            hint = "send the header Authorization: Bearer TOKEN"
            raise RequestError("request", "has no valid token", hint, code="serve.no_token")
        if not allows(role, wanted):
            problem, hint = "has a token that may not do this", f"use one of role {wanted}"
            raise RequestError("request", problem, hint, code="serve.not_allowed")

    return check
