"""Sources that are not the installed ones are named, in every folder."""

import re
import shutil
from pathlib import Path

import pytest

import medfocus
from medfocus.benchmarks.gpu.preflight import FOLDERS, source_problems
from tests.checkout import ROOT


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A repository of which the installed package was made."""
    installed = Path(medfocus.__file__).parent
    for folder in FOLDERS:
        ignored = shutil.ignore_patterns("*.pyc", "*.safetensors", "results")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    (tmp_path / "package").mkdir()
    for file in installed.glob("*.py"):
        shutil.copy(file, tmp_path / "package")
    return tmp_path


def test_the_folders_are_setups() -> None:
    mapped = re.search(r"^FOLDERS = \((.*)\)$", (ROOT / "setup.py").read_text(), re.MULTILINE)
    assert mapped is not None
    assert tuple(re.findall(r'"(\w+)"', mapped[1])) == FOLDERS


def test_files_that_differ_are_named_and_counted(copied: Path) -> None:
    assert list(source_problems(copied)) == []
    names = ["kernels/tiles/modelled.json", "engine/backends/torch/backend.py", "package/errors.py"]
    for name in names:
        whole = (copied / name).read_text()
        (copied / name).write_text(whole + "\n")
        (problem,) = source_problems(copied)
        assert f" {name} " in problem
        (copied / name).write_text(whole)
    (copied / "engine/new.py").write_text("")  # not installed
    (copied / "kernels/tile.py").write_text("")
    (problem,) = source_problems(copied)
    assert "kernels/tile.py" in problem
    assert "1 more" in problem
