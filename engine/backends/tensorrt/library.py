"""What building and running TensorRT plans share, without loading TensorRT."""

import re

from medfocus.errors import InputError

PLANS = "plans"
SEGMENTER_PLAN, CLASSIFIER_PLAN = "segmenter.plan", "classifier.plan"
OLDEST = (10, 0)  # with networks that are strongly typed, and execute_async_v3


def require_tensorrt() -> str:
    """Check that TensorRT can be loaded, before a module that needs it is imported.

    Returns:
        Its version, 11.4.0.106 say.

    Raises:
        InputError: it is not installed, cannot be loaded, or is too old.
    """
    hint = "install it (pip install tensorrt), or leave TensorRT out"
    try:
        import tensorrt
    except ModuleNotFoundError as error:
        raise InputError("tensorrt", f"{error.name} is not installed", hint) from error
    except (ImportError, OSError) as error:  # the bindings without their libraries
        raise InputError(
            "tensorrt", f"is installed and cannot be loaded ({error})", hint
        ) from error
    version = str(tensorrt.__version__)
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or tuple(map(int, numbers.groups())) < OLDEST:
        raise InputError("tensorrt", f"version {version} is too old", "install 10.0 or newer")
    return version


def plan_folder(architecture: int, version: str) -> str:
    """Where an engine directory keeps the plans of one GPU architecture and TensorRT version.

    A plan runs on no other: `plans/sm90-11.4.0.106`.
    """
    return f"{PLANS}/sm{architecture}-{version}"
