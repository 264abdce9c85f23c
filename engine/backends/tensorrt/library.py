"""What building and running TensorRT plans share, without loading TensorRT."""

import re

from medfocus.errors import InputError

PLANS = "plans"
SEGMENTER_PLAN, CLASSIFIER_PLAN = "segmenter.plan", "classifier.plan"
OLDEST = (10, 1)  # scratch memory that contexts share: set_device_memory


def require_tensorrt() -> str:
    """Check that TensorRT can be loaded, before a module that needs it is imported.

    Returns:
        Its version, for example 11.4.0.106.

    Raises:
        InputError: it is not installed, cannot be loaded, or is too old.
    """
    hint = "pip install tensorrt"
    try:
        import tensorrt
    except ModuleNotFoundError as error:
        problem = f"{error.name} is not installed"
        raise InputError("tensorrt", problem, hint, code="backend.not_installed") from error
    except (ImportError, OSError) as error:  # the bindings without their libraries
        problem = f"is installed and cannot be loaded ({error})"
        raise InputError("tensorrt", problem, hint, code="backend.broken") from error
    version = str(tensorrt.__version__)
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or tuple(map(int, numbers.groups())) < OLDEST:
        hint = "pip install 'tensorrt>=10.1'"
        problem = f"version {version} is too old"
        raise InputError("tensorrt", problem, hint, code="backend.broken")
    return version


def plan_folder(architecture: int, version: str) -> str:
    """The folder in an engine directory for the plans of one GPU architecture and TensorRT version.

    A plan runs on no other. An example: `plans/sm90-11.4.0.106`.
    """
    return f"{PLANS}/sm{architecture}-{version}"
