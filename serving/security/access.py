"""Who may use a route: a dependency of FastAPI."""

from collections.abc import Awaitable, Callable

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from medfocus.serving.errors import RequestError
from medfocus.serving.security.tokens import Role, allows
from medfocus.serving.state import Service, service_of

_scheme = HTTPBearer(auto_error=False, description="a token of the service's token file")


def needs(wanted: Role) -> Callable[..., Awaitable[None]]:
    """A dependency that refuses whoever may not do what `wanted` may.

    Raises:
        RequestError: see `check_role`.
    """

    async def check(request: Request, _: object = Depends(_scheme)) -> None:
        check_role(service_of(request), request.headers.get("authorization"), wanted)

    return check


def check_role(service: Service, authorization: str | None, wanted: Role | None) -> None:
    """Refuse whoever may not do what `wanted` may.

    Args:
        service: that the request came to.
        authorization: the header of that name.
        wanted: None for what everybody may do.

    Raises:
        RequestError: no token or an unknown one (`serve.no_token`), or one of a lesser role
            (`serve.not_allowed`).
    """
    tokens = service.tokens
    if tokens is None or wanted is None:
        return
    role = tokens.role(authorization)
    if role is None:
        hint = "send the header Authorization: Bearer TOKEN"
        raise RequestError("request", "has no valid token", hint, code="serve.no_token")
    if not allows(role, wanted):
        problem, hint = "has a token that may not do this", f"use one of role {wanted}"
        raise RequestError("request", problem, hint, code="serve.not_allowed")
