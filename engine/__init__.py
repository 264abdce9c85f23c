"""An engine directory becomes predictions."""

from medfocus.engine.engine import Engine
from medfocus.engine.prediction import Prediction

__all__ = ["Engine", "Prediction"]
