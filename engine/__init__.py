"""From an engine directory to predictions."""

from medfocus.engine.engine import Engine
from medfocus.engine.prediction import Prediction

__all__ = ["Engine", "Prediction"]
