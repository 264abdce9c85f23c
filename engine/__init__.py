"""From an engine directory to predictions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medfocus.engine.engine import Engine
    from medfocus.engine.prediction import Prediction

__all__ = ["Engine", "Prediction"]


# On first use, so that a process that only reads files starts quickly.
def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"medfocus.engine.{name.lower()}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
