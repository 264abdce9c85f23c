"""What the routes share."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import Request

from medfocus.serving.body_memory import BodyMemory
from medfocus.serving.config import ServeConfig
from medfocus.serving.engines import EngineRegistry
from medfocus.serving.monitoring.metrics import Metrics

if TYPE_CHECKING:  # the room `security` knows the service
    from medfocus.serving.security.tokens import Tokens


@dataclass(eq=False)
class Service:
    """One service.

    Attributes:
        config: of it.
        engines: what it serves.
        tokens: None where it needs none.
        stopping: whether it takes no more requests.
        metrics: of the requests and the engines.
        bodies: memory for those that are not on disk.
    """

    config: ServeConfig
    engines: EngineRegistry
    tokens: "Tokens | None" = None
    stopping: bool = False
    metrics: Metrics = field(init=False)
    bodies: BodyMemory = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.engines)
        self.bodies = BodyMemory(self.config.limits.body_bytes)


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service: Service = request.app.state.service
    return service
