"""Whether the service is alive, and whether its engines are ready."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from medfocus.serving.state import service_of

router = APIRouter(tags=["operations"])


@router.get("/livez")
async def livez() -> dict[str, str]:
    """200 as long as the process answers."""
    return {"status": "alive"}


@router.get("/readyz")
async def readyz(request: Request) -> JSONResponse:
    """200 if every engine is ready and the service is not stopping, else 503; each one's state."""
    service = service_of(request)
    states = service.engines.states()
    ready = bool(states) and all(each.state == "ready" for each in states) and not service.stopping
    content: dict[str, Any] = {"ready": ready, "engines": [asdict(each) for each in states]}
    return JSONResponse(content, 200 if ready else 503)
