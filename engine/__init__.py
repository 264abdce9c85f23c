"""From an engine directory to predictions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medfocus.engine.engine import Engine
    from medfocus.engine.prediction import Prediction
    from medfocus.engine.series.prediction import SeriesPrediction

__all__ = ["Engine", "Prediction", "SeriesPrediction"]
_MODULES = {
    "Engine": "medfocus.engine.engine",
    "Prediction": "medfocus.engine.prediction",
    "SeriesPrediction": "medfocus.engine.series.prediction",
}


# On first use, so that a process that only reads files starts quickly.
def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
