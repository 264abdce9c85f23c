"""TensorRT's real Python bindings, loaded without its libraries.

The bindings' extension module links to nine functions of its libraries, and importing it calls none
of them. With stand-ins that return nothing, every class, signature and all of `tensorrt.plugin` can
be inspected, and Python subclasses created, on a machine without a GPU.

    python -m tests.tensorrt_api.bindings      prints the API as JSON, see `describe`
"""

import ctypes
import importlib
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

VARIABLE = "MEDFOCUS_TENSORRT_BINDINGS"  # the folder of the package tensorrt_bindings
LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")
FUNCTIONS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL"),
    *("createInferRuntime_INTERNAL", "createNvOnnxParser_INTERNAL"),
    *("createNvOnnxParserRefitter_INTERNAL", "getBuilderPluginRegistry"),
    *("getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins"),
)


def folder() -> Path | None:
    """The folder of the package `tensorrt_bindings`, or None."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    spec = importlib.util.find_spec("tensorrt_bindings")
    return Path(spec.origin).parents[1] if spec and spec.origin else None


def missing() -> str | None:
    """Why the bindings cannot be loaded here; None if they can."""
    if folder() is None:
        return f"TensorRT's Python bindings are not installed, and {VARIABLE} names no folder"
    if shutil.which("cc") is None:
        return "there is no C compiler for the stand-ins of TensorRT's libraries"
    return None


def load() -> types.ModuleType:
    """Import the bindings as `tensorrt`; only in a process of its own, for they stay loaded."""
    where = folder()
    assert where is not None
    with tempfile.TemporaryDirectory() as temporary:
        for path in make_stand_ins(Path(temporary)):
            # The loader uses a library that is already loaded under the requested name.
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        sys.path.insert(0, str(where))
        module = importlib.import_module("tensorrt_bindings")
    # Under both names, or the plugin package would import the bindings a second time.
    sys.modules["tensorrt"] = module
    sys.modules["tensorrt.tensorrt"] = sys.modules["tensorrt_bindings.tensorrt"]
    return module


def make_stand_ins(target: Path) -> list[Path]:
    """Compile stand-ins for the libraries that the bindings link to, under the same names."""
    where = folder()
    assert where is not None
    extension = where / "tensorrt_bindings" / "tensorrt.so"
    data = extension.read_bytes()
    source = target / "stand_in.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    made = []
    for library in LIBRARIES:
        wanted = re.search(rf"{library}\.so\.\d+".encode(), data)
        assert wanted is not None, f"{extension} does not link to {library}"
        name = wanted[0].decode()
        options = ("-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", target / name, source)
        subprocess.run(("cc", *options), check=True)
        made.append(target / name)
    return made


def describe(module: types.ModuleType) -> dict[str, Any]:
    """Every class by name, with its members.

    A method or function is the list of its overloads, each a list of its parameters' names; an
    enumerator is its number; anything else is None.
    """
    found: dict[str, Any] = {"__version__": module.__version__}
    for name, value in vars(module).items():
        if isinstance(value, type):
            found[name] = _members(value)
        elif callable(value) and not name.startswith("_"):
            found[name] = _overloads(value)
    return found


def _members(kind: type) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name in dir(kind):
        if name.startswith("__") and name != "__init__":
            continue
        value = getattr(kind, name)
        if isinstance(value, type):
            members[name] = _members(value)
        elif hasattr(type(value), "__members__"):
            members[name] = int(value)
        else:
            members[name] = _overloads(value) if callable(value) else None
    return members


def _overloads(function: Any) -> list[list[str]] | None:
    """The parameters of each overload, from the first lines of pybind11's docstring."""
    if isinstance(function, types.FunctionType):
        return [list(inspect.signature(function).parameters)]
    text = getattr(function, "__doc__", None) or ""
    name = re.escape(getattr(function, "__name__", ""))
    lines = re.findall(rf"^(?:\d+\. )?{name}\((.*)\) -> .*$", text, re.MULTILINE)
    return [re.findall(r"(\w+): ", _outermost(line)) for line in lines] or None


def _outermost(parameters: str) -> str:
    """A parameter list without the content of brackets."""
    while (shorter := re.sub(r"\[[^\[\]]*\]|<[^<>]*>|\([^()]*\)", "", parameters)) != parameters:
        parameters = shorter
    return parameters


if __name__ == "__main__":
    json.dump(describe(load()), sys.stdout)
