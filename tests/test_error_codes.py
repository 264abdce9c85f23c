"""docs/errors.md names every code of an error or a warning in the package, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("package", "kernels", "models", "phantoms", "engine", "export", "fewshot", "serving",
           "benchmarks")  # fmt: skip


AREAS = (
    "input|file|image|dicom|weights|model|head|engine|parity|backend|device|output|kernel"
    "|boxes|dataset|split|bench|pixels|series|serve"
)
CODE = re.compile(rf"({AREAS})\.(?!safetensors$|plan$|csv$|toml$)[a-z_]+")


def raised() -> Iterator[str]:
    """Every text in the sources that has the form of a code."""
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and CODE.fullmatch(text):
                yield text


def test_the_page_has_exactly_the_codes_of_the_sources() -> None:
    codes = set(raised())
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)
    listed = [code for row in rows for code in re.findall(r"`([a-z]+\.[a-z_]+)`", row)]
    assert (sorted(set(listed) - codes), sorted(codes - set(listed))) == ([], [])
    assert len(set(listed)) == len(listed)
