"""Whether the service is alive, whether its engines are ready, and metrics."""

from dataclasses import replace

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel

from medfocus.serving.engines import EngineState
from medfocus.serving.state import service_of

router = APIRouter(tags=["operations"])


@router.get("/livez", responses={503: {"description": "The process must be replaced."}})
async def livez(request: Request, response: Response) -> dict[str, str]:
    """200 as long as the process can answer; 503 if it must be replaced.

    It must if an engine's backend failed, and could not be loaded again by this process.
    """
    lost = service_of(request).engines.lost
    response.status_code = 503 if lost else 200
    return {"status": "lost" if lost else "alive"}


class Readiness(BaseModel):
    """Whether every engine answers, and each one's state."""

    ready: bool
    engines: list[EngineState]


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Not all are ready."}})
async def readyz(request: Request, response: Response) -> Readiness:
    """200 if every engine is ready and the service is not stopping, else 503; each one's state."""
    service = service_of(request)
    states = service.engines.states()
    ready = bool(states) and all(each.state == "ready" for each in states) and not service.stopping
    response.status_code = 200 if ready else 503
    # Whoever has no token learns that there was an error; its text may name files.
    hidden = [replace(each, error=each.error and "see the service's log") for each in states]
    return Readiness(ready=ready, engines=hidden)


@router.get("/metrics", response_class=Response)
def metrics(request: Request) -> Response:
    """Prometheus' text format, or OpenMetrics for whoever accepts it."""
    encode, kind = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(service_of(request).metrics.registry), media_type=kind)
