"""Export configurations: which are refused."""

import sys
from typing import Any

import pytest

from medfocus.errors import InputError
from medfocus.export.config import ExportConfig
from tests.errors import refuses


@pytest.mark.parametrize(
    ("arguments", "code", "item"),
    [
        ({"targets": ()}, "input.invalid", "targets"),
        ({"targets": ("torch", "jax")}, "backend.unknown", "target 'jax'"),
        ({"targets": ("torch",), "int8": True}, "input.invalid", "int8"),
        ({"buckets": ()}, "input.invalid", "batch"),
        ({"buckets": (8, 1)}, "input.invalid", "batch"),
        ({"buckets": (0, 1)}, "input.invalid", "batch"),
        ({"join": "median"}, "input.unknown_choice", "join"),
        ({"dtype": "bf16", "targets": ("onnx",)}, "backend.unsupported_precision", "target onnx"),
    ],
)
def test_invalid_configurations_are_refused(
    arguments: dict[str, Any], code: str, item: str
) -> None:
    """ONNX Runtime does not compute in bf16 on a CPU."""
    with refuses(InputError, code, item):
        ExportConfig(**arguments)


def test_a_target_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medfocus.export.config.find_spec", lambda name: None)
    with refuses(InputError, "backend.not_installed", "target openvino"):
        ExportConfig(targets=("openvino",))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with refuses(InputError, "backend.not_installed", "target tensorrt"):
        ExportConfig(targets=("tensorrt",))
