"""What clients may ask of the service and its engines apart from predictions."""

from typing import Any

import medfocus
from medfocus.serving.engines import EngineState, ServedEngine
from medfocus.serving.errors import RequestError
from medfocus.serving.open_inference.tensors import CLASSES, INPUTS, OUTPUTS, Described
from medfocus.serving.state import Service

EXTENSIONS = ("binary_tensor_data", "model_repository", "parameters")
_STATES = {"ready": "READY", "loading": "LOADING", "failed": "UNAVAILABLE"}  # the protocol's


def is_ready(service: Service) -> bool:
    """Whether every engine answers, and the service is not stopping."""
    states = service.engines.states()
    return bool(states) and all(each.state == "ready" for each in states) and not service.stopping


def is_model_ready(service: Service, name: str, version: str) -> bool:
    """Whether an engine answers, in this version if one is named."""
    return any(
        served.name == name and version in ("", served.version)
        for served in service.engines.ready()
    )


def server_metadata() -> dict[str, Any]:
    """The service's name, its version, and what it has of the protocol's extensions."""
    return {"name": "medfocus", "version": medfocus.__version__, "extensions": list(EXTENSIONS)}


def model_metadata(service: Service, name: str, version: str) -> dict[str, Any]:
    """An engine's tensors.

    Raises:
        InputError: see `EngineRegistry.admitted`.
        RequestError: it has another version (`serve.unknown_version`).
    """
    with service.engines.admitted(name, 0) as served:
        check_version(name, version, served.version)
        return {
            "name": name,
            "versions": [served.version],
            "platform": f"medfocus_{served.engine.backend}",
            "inputs": [_described(*each, served) for each in INPUTS.items()],
            "outputs": [_described(*each, served) for each in OUTPUTS.items()],
        }


def check_version(name: str, wanted: str, found: str) -> None:
    """Refuse a request for another version of an engine than the one that answers.

    Raises:
        RequestError: they differ (`serve.unknown_version`).
    """
    if wanted not in ("", found):
        hint = "leave out the version, or take it from the model's metadata"
        problem = f"has the version {found}, and not the one that was asked for"
        raise RequestError(f"engine {name}", problem, hint, code="serve.unknown_version")


def repository_index(service: Service, ready: bool) -> list[dict[str, str]]:
    """Every engine of the configuration, with its state; or only those that answer."""
    states = {state.name: state for state in service.engines.states()}
    for name in service.config.engines:
        states.setdefault(name, EngineState(name, "failed", error="unloaded"))
    return [
        {
            "name": state.name,
            "version": state.version,
            "state": _STATES[state.state],
            "reason": state.error,
        }
        for _, state in sorted(states.items())
        if state.state == "ready" or not ready
    ]


def refuse_parameters(parameters: object) -> None:
    """Engines are loaded as the configuration says: a request cannot name files or settings.

    Raises:
        RequestError: there are any.
    """
    if parameters:
        hint = "send none: engines are loaded as the configuration says"
        raise RequestError("parameters", "cannot be given", hint)


def _described(name: str, tensor: Described, served: ServedEngine) -> dict[str, Any]:
    classes = len(served.engine.manifest.classes)
    shape = [classes if length == CLASSES else length for length in tensor.shape]
    return {"name": name, "datatype": tensor.datatype, "shape": shape}
