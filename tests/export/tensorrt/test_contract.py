"""Our use of TensorRT, checked against its real Python bindings, without its libraries.

The bindings are imported in separate processes; nothing is built or run. Three things are checked:
the stand-in that other tests use, every name and call in our code by mypy with types taken from the
bindings, and the plugin by `tensorrt.plugin` itself (test_plugin.py).
"""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from enum import IntEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import medfocus
from medfocus.export.tensorrt import build_plans
from tests.tensorrt_api import bindings, library

ROOT = Path(__file__).parents[3]
# Our modules that import TensorRT.
USERS = (
    "engine/backends/tensorrt/plan_runner.py",
    "export/tensorrt/builder.py",
    "export/tensorrt/plugin.py",
)

pytestmark = pytest.mark.skipif(bindings.missing() is not None, reason=bindings.missing() or "")


def python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def api() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(python("-m", "tests.tensorrt_api.bindings"))
    return found


def test_the_bindings_have_a_supported_version(api: dict[str, Any]) -> None:
    assert int(api["__version__"].split(".")[0]) in (10, 11)


def test_the_stand_in_has_no_name_that_tensorrt_lacks(api: dict[str, Any]) -> None:
    checked = 0
    for name, value in vars(library).items():
        if inspect.getmodule(value) is not library or name.startswith("_"):
            continue
        assert name in api, name
        if inspect.isfunction(value):
            assert parameters(value) in api[name], name
        elif issubclass(value, IntEnum):
            # Only names are compared: numbers differ between versions, and are never used.
            assert set(value.__members__) <= set(api[name]), name
        else:
            checked += check_class(name, value, api[name])
    assert checked >= 40, "methods and properties"


def check_class(name: str, kind: type, real: dict[str, Any]) -> int:
    members = {n: m for n, m in vars(kind).items() if not n.startswith("_")}
    for member, value in members.items():
        where = f"{name}.{member}"
        assert member in real, where
        if inspect.isfunction(value):
            assert real[member] is not None, f"{where} is not a method"
            assert any(takes(value, overload) for overload in real[member]), (where, real[member])
        elif isinstance(value, type):
            assert set(value.__members__) <= set(real[member]), where  # type: ignore[attr-defined]
        else:
            assert not isinstance(real[member], list), f"{where} is a method"
    return len(members)


def takes(function: Any, overload: list[str]) -> bool:
    """Whether the real overload begins with the same parameters; the others have defaults."""
    ours = parameters(function)
    return overload[: len(ours)] == ours


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_methods_that_tensorrt_calls_have_its_parameters(api: dict[str, Any]) -> None:
    """TensorRT calls them by position, with all parameters."""
    source = Path(build_plans.__file__).with_name("builder.py").read_text()
    for method in ("phase_start", "step_complete", "phase_finish"):
        ours = re.search(rf"def {method}\((.*?)\)", source, re.DOTALL)
        assert ours is not None
        names = re.findall(r"(\w+)(?::|,|$)", ours[1])
        assert [name for name in names if name in api["IProgressMonitor"][method][0]] == (
            api["IProgressMonitor"][method][0]
        )
    assert api["ILogger"]["log"] == [["self", "severity", "msg"]]


OURS = """
from tests.tensorrt_api import bindings
trt = bindings.load()
import io
import numpy as np
from rich.console import Console
from rich.progress import Progress
from medfocus.engine.backends.tensorrt.library import require_tensorrt
from medfocus.engine.backends.tensorrt.plan_runner import Logger
from medfocus.export.tensorrt.builder import Builder, Monitor

assert require_tensorrt() == trt.__version__
logger = Logger()
for severity in trt.ILogger.Severity.__members__.values():
    logger.log(severity, f"message {severity.name}")
assert logger.drain_messages() == (
    "internal_error: message INTERNAL_ERROR\\nerror: message ERROR\\nwarning: message WARNING"
)
assert "message INTERNAL_ERROR" not in logger.drain_messages()

progress = Progress(console=Console(file=io.StringIO()))
monitor = Monitor(progress)
monitor.phase_start("Building", None, 3)
assert monitor.step_complete("Building", 0) and monitor.step_complete("unknown", 0)
assert progress.tasks[0].completed == 1
monitor.phase_finish("Building")
monitor.phase_finish("unknown")
assert not progress.tasks

flags = trt.NetworkDefinitionCreationFlag
expected = 1 << int(flags.STRONGLY_TYPED)
assert Builder(None, False, None)._flags() == expected
assert Builder(None, True, None)._flags() == expected | 1 << int(flags.PREFER_AOT_PYTHON_PLUGINS)
assert tuple(trt.Dims((8, 9, 1, 2))) == (8, 9, 1, 2)
for dtype, expected in (("FLOAT", np.float32), ("INT32", np.int32), ("BOOL", np.bool_)):
    assert np.dtype(trt.nptype(getattr(trt.DataType, dtype))) == np.dtype(expected)
for wanted in (trt.Builder, trt.Runtime):
    try:
        wanted(logger)  # it takes our logger, and then finds no library
    except TypeError as error:
        assert "nullptr" in str(error), error
"""


def test_our_classes_work_on_the_real_ones() -> None:
    python("-c", OURS)


@pytest.mark.slow
def test_every_use_of_tensorrt_has_the_right_types(tmp_path: Path) -> None:
    types = tmp_path / "types"
    python("-m", "tests.tensorrt_api.types", str(types))
    copy = tmp_path / "sources" / "medfocus"
    copy_package(copy)
    found = check_types([copy / name for name in USERS], types, tmp_path)
    assert found == []


def copy_package(target: Path) -> None:
    """Copy medfocus into one tree: mypy does not check installed packages as sources."""
    unneeded = shutil.ignore_patterns("*.safetensors", "__pycache__", "results")
    for name in (
        "errors",
        "settings",
        "files",
        "telemetry",
        "terminal",
        "engine",
        "export",
        "models",
        "kernels",
    ):
        source = find_spec(f"medfocus.{name}")
        assert source is not None
        assert source.origin is not None
        if source.submodule_search_locations is None:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(source.origin, target)
        else:
            shutil.copytree(Path(source.origin).parent, target / name, ignore=unneeded)
    shutil.copy(Path(medfocus.__file__), target)


@pytest.mark.slow
def test_a_wrong_use_would_be_found(tmp_path: Path) -> None:
    types = tmp_path / "types"
    python("-m", "tests.tensorrt_api.types", str(types))
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import tensorrt as trt\n"
        "import tensorrt.plugin as trtp\n"
        "def f(context: trt.IExecutionContext, config: trt.IBuilderConfig) -> None:\n"
        "    context.execute_async_v4(1)\n"
        "    context.set_input_shape('x')\n"
        "    config.set_flag(trt.BuilderFlag.FLOAT17)\n"
        "    config.set_flag(trt.TensorIOMode.INPUT)\n"
        "    trtp.KernelLaunchParams(grid=1)\n"
        "    trtp.registers('a::b')\n"
    )
    lines = [
        int(re.findall(r":(\d+): error", line)[0]) for line in check_types([wrong], types, tmp_path)
    ]
    assert set(lines) == {4, 5, 6, 7, 8, 9}


def check_types(files: list[Path], types: Path, temporary: Path) -> list[str]:
    """mypy's errors in some files, with TensorRT's types from the folder `types`."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")),
            # Errors in what the files import do not matter here, and take long to find.
            *("--follow-imports=silent", "--no-warn-unused-ignores", "--no-error-summary"),
            "--allow-untyped-calls",  # parts of tensorrt.plugin have no types
            *("--cache-dir", str(temporary / "cache"), *map(str, files)),
        ],
        capture_output=True,
        text=True,
        cwd=temporary,
        env={**os.environ, "MYPYPATH": f"{temporary / 'sources'}:{types}"},
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert "MYPYPATH" not in done.stdout + done.stderr, "nothing was checked"
    names = {file.name for file in files}
    return [
        line
        for line in done.stdout.splitlines()
        if ": error:" in line and Path(line.split(":")[0]).name in names
    ]
