"""The engines: their states for everyone, loading and unloading for administrators."""

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from medfocus.engine.artifact.manifest import to_json
from medfocus.serving.engines import EngineState, ServedEngine
from medfocus.serving.errors import RequestError
from medfocus.serving.security.access import needs
from medfocus.serving.state import Service, service_of

router = APIRouter(prefix="/v1/engines", tags=["engines"])


@router.get("", dependencies=[Depends(needs("classify"))])
async def states(request: Request) -> list[EngineState]:
    """Each engine's state, version, backend and load."""
    return service_of(request).engines.states()


@router.get("/{name}/manifest", dependencies=[Depends(needs("classify"))])
async def manifest(request: Request, name: str) -> Response:
    """The engine's manifest, as its directory has it: classes, models, preprocessing, checks.

    The engine's version is the first 16 hexadecimal digits of the SHA-256 of this text.
    """
    served = service_of(request).engines.current(name)
    return Response(to_json(served.engine.manifest), media_type="application/json")


@router.post("/{name}/load", dependencies=[Depends(needs("administer"))])
async def load(request: Request, name: str) -> dict[str, Any]:
    """Load an engine of the configuration, or its next version; answers once that is ready.

    Requests go to the former version until then, and it answers all that it has accepted.
    """
    served = await load_configured(service_of(request), name)
    return {"name": name, "version": served.version}


@router.post("/{name}/unload", dependencies=[Depends(needs("administer"))])
async def unload(request: Request, name: str) -> dict[str, Any]:
    """Unload an engine, once it has answered what it has accepted."""
    await run_in_threadpool(service_of(request).engines.unload, name)
    return {"name": name}


async def load_configured(service: Service, name: str) -> ServedEngine:
    """Load an engine as the configuration says; see `EngineRegistry.load`.

    Raises:
        RequestError: the configuration has none of this name (`serve.unknown_engine`).
        MedfocusError: it cannot be loaded.
    """
    settings = service.config.engines.get(name)
    if settings is None:
        hint = f"name it in the configuration: {', '.join(service.config.engines)} are there"
        raise RequestError(f"engine {name}", "is unknown", hint, code="serve.unknown_engine")
    return await run_in_threadpool(service.engines.load, name, settings)
