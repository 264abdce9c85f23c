"""The service as an ASGI application."""

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

import medfocus
from medfocus.errors import MedfocusError
from medfocus.serving import problems
from medfocus.serving.api import classify, engines, health
from medfocus.serving.dicomweb import store
from medfocus.serving.monitoring.access_log import AccessLog
from medfocus.serving.open_inference import routes as open_inference
from medfocus.serving.security.browsers import BrowserGuard
from medfocus.serving.security.limits import BodyLimits
from medfocus.serving.state import Service


def application(service: Service) -> FastAPI:
    """All routes, for an ASGI server."""
    app = FastAPIOffline(  # its page /docs loads nothing from elsewhere
        title="medfocus",
        version=medfocus.__version__,
        description="Classifies medical images with CLIP, which looks where SAM2 found a region.",
        redoc_url=None,
        responses=problems.RESPONSES,
        # Its own spans and logs hold queries and exceptions' texts, which may quote a patient's
        # data; ours are in `monitoring.traces`.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.service = service
    for room in (health, engines, classify, store, open_inference):
        app.include_router(room.router)
    app.add_exception_handler(MedfocusError, problems.medfocus_problem)
    app.add_exception_handler(HTTPException, problems.http_problem)
    app.add_exception_handler(RequestValidationError, problems.invalid_problem)
    app.add_exception_handler(OSError, problems.space_problem)
    app.add_exception_handler(Exception, problems.unexpected_problem)
    app.add_middleware(BodyLimits, limits=service.config.limits)
    app.add_middleware(BrowserGuard, service=service)
    app.add_middleware(AccessLog, metrics=service.metrics)  # around all others
    return app
