"""medfocus: SAM2 finds the region, CLIP is made to look there, both run as one engine.

    from medfocus import Engine

    engine = Engine.load("engines/brain")

The names below are imported on first use, so that `import medfocus` needs no other package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from medfocus import telemetry as _telemetry
from medfocus.files import user_folders as _user_folders

if TYPE_CHECKING:
    from medfocus.engine import Engine, Prediction, SeriesPrediction

__version__ = "0.2.0"
__all__ = ["Engine", "Prediction", "SeriesPrediction", "__version__"]

# Here, since whatever part of medfocus is used, this runs before a runtime is imported.
_telemetry.switch_off()
_user_folders.replace_missing_home()


def __getattr__(name: str) -> Any:
    if name in ("Engine", "Prediction", "SeriesPrediction"):
        return getattr(import_module("medfocus.engine"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
