"""Type stubs of TensorRT for mypy, generated from its real bindings.

python -m tests.tensorrt_api.types FOLDER      writes FOLDER/tensorrt
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.tensorrt_api import bindings

# Members that are documented but missing in pybind11's docstrings.
ADDED = {
    "Dims": "    def __iter__(self) -> typing.Iterator[int]: ...",
    "IHostMemory": "    def __buffer__(self, flags: int, /) -> memoryview: ...",
}


def write(target: Path) -> None:
    """Write a package of type stubs."""
    where = bindings.folder()
    assert where is not None
    raw = target / "raw"
    raw.mkdir(parents=True)
    bindings.make_stand_ins(raw)
    subprocess.run(
        [
            *(sys.executable, "-c", "from mypy.stubgen import main; main()", "--inspect-mode"),
            *("-q", "-m", "tensorrt_bindings.tensorrt", "-o", raw),
        ],
        env={**os.environ, "LD_LIBRARY_PATH": str(raw), "PYTHONPATH": str(where)},
        check=True,
    )
    text = (raw / "tensorrt_bindings" / "tensorrt.pyi").read_text()
    package = target / "tensorrt"
    plugin = package / "plugin"
    shutil.copytree(where / "tensorrt_bindings" / "plugin", plugin)
    (package / "tensorrt.pyi").write_text(_repaired(text))
    (package / "__init__.pyi").write_text(
        "from typing import Any\n"
        "from .tensorrt import *\n"
        "__version__: str\n"
        "def nptype(trt_type: DataType) -> Any: ...\n"
    )
    # The package exports the names with this decorator, which no type checker understands.
    lines = []
    for file in sorted(plugin.glob("_*.py")):
        public = re.findall(r"@public_api\(\)\n\s*(?:def|class) (\w+)", file.read_text())
        lines += [f"from .{file.stem} import {name} as {name}" for name in public]
    (plugin / "__init__.pyi").write_text("\n".join(lines) + "\n")


def _repaired(text: str) -> str:
    """The stubs, corrected where they are invalid or wrong."""
    text = text.replace("tensorrt_bindings.tensorrt.", "").replace("typing.SupportsInt", "int")
    text = re.sub(
        r"^bool: .*\n", "", text, flags=re.MULTILINE
    )  # a data type that shadows Python's bool
    text = re.sub(r"^(\s*def \w+\()(.*)(\) -> .*)$", _with_defaults, text, flags=re.MULTILINE)
    # The docstring has the C++ name of the class, which makes the method untyped.
    text = re.sub(
        r"def get_error\(self.*", "def get_error(self, index: int) -> ParserError: ...", text
    )
    for kind, line in ADDED.items():
        text = re.sub(rf"^(class {kind}\b.*:)$", rf"\1\n{line}", text, flags=re.MULTILINE)
    return "# mypy: ignore-errors\nimport typing\n" + text


def _with_defaults(match: re.Match[str]) -> str:
    """A function whose parameters after one with a default all have a default."""
    parts, depth = [""], 0
    for character in match[2]:
        depth += (character in "[(") - (character in "])")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    optional = False
    for i, part in enumerate(parts):
        optional |= "=" in part
        if optional and "=" not in part and part.strip() and not part.strip().startswith("*"):
            parts[i] += " = ..."
    return match[1] + ",".join(parts) + match[3]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
