"""An engine over HTTP: `medfocus serve`, and its clients."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medfocus.serving.client.asynchronous import AsyncClient
    from medfocus.serving.client.synchronous import Client

__all__ = ["AsyncClient", "Client"]
_MODULES = {
    "AsyncClient": "medfocus.serving.client.asynchronous",
    "Client": "medfocus.serving.client.synchronous",
}


# On first use: the service itself needs no client, and a client nothing of the service.
def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
