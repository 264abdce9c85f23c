"""Sources that are not the installed ones are named, whatever their folder."""

import re
import shutil
from pathlib import Path

import pytest

import medfocus
from medfocus.benchmarks.gpu.preflight import FOLDERS, source_problems

ROOT = Path(__file__).parents[2]


def copied(tmp_path: Path) -> Path:
    """A repository of which the installed package was made."""
    installed = Path(medfocus.__file__).parent
    for folder in FOLDERS:
        shutil.copytree(installed / folder, tmp_path / folder)
    (tmp_path / "package").mkdir()
    for file in installed.glob("*.py"):
        shutil.copy(file, tmp_path / "package")
    return tmp_path


def test_the_folders_are_setups() -> None:
    mapped = re.search(r"^FOLDERS = \((.*)\)$", (ROOT / "setup.py").read_text(), re.MULTILINE)
    assert mapped is not None
    assert tuple(re.findall(r'"(\w+)"', mapped[1])) == FOLDERS


def test_the_same_repository_is_what_is_installed(tmp_path: Path) -> None:
    assert list(source_problems(copied(tmp_path))) == []


@pytest.mark.parametrize(
    "name",
    [
        "kernels/tile.py",
        "kernels/tiles/modelled.json",
        "models/sam2/hiera.py",
        "engine/backends/torch/batch_buffers.py",
        "export/config.py",
        "benchmarks/bench/timing/clock.py",
        "fewshot/data/splitting/groups.py",
        "package/settings.py",
    ],
)
def test_a_file_that_differs_is_named(tmp_path: Path, name: str) -> None:
    changed = copied(tmp_path) / name
    changed.write_text(changed.read_text() + "\n")
    assert list(source_problems(tmp_path)) == [
        f"the installed medfocus is not this repository's: {name} differs"
    ]


def test_a_file_that_is_not_installed_is_named_and_others_are_counted(tmp_path: Path) -> None:
    root = copied(tmp_path)
    (root / "engine/new.py").write_text("")
    (root / "kernels/tile.py").write_text("")
    (root / "benchmarks/suites").mkdir()
    (root / "benchmarks/suites/bench_new.py").write_text("")  # no part of the package
    problem = next(source_problems(root))
    assert problem.endswith("kernels/tile.py differs (and 1 more)")
