"""What an installation holds: all that the commands need, and nothing of a checkout's own."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.checkout import copy_checkout

ROOMS = ("results", "suites", "experiments")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The wheel's files, without its metadata."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), "."]
    subprocess.run(command, cwd=copy_checkout(folder / "checkout"), check=True)
    (wheel,) = folder.glob("medfocus-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        listed = archive.namelist()
    return {name for name in listed if ".dist-info/" not in name}


def test_it_holds_one_package(names: set[str]) -> None:
    assert {name.split("/")[0] for name in names} == {"medfocus"}


@pytest.mark.parametrize(
    "name",
    [
        "py.typed",
        "classify/command.py",
        "engine/engine.py",
        "engine/backends/torch/backend.py",
        "export/validate/gate.py",
        "fewshot/study/reporting/report.html.j2",
        "kernels/tiles/modelled.json",
        "models/tiny/clip.safetensors",
        "phantoms/phantom.py",
        "serving/client/synchronous.py",
    ],
)
def test_it_holds_what_the_commands_read(names: set[str], name: str) -> None:
    assert f"medfocus/{name}" in names


def test_it_holds_nothing_of_a_checkout_alone(names: set[str]) -> None:
    rooms = "|".join(("tools", "tests", "deploy", *(f"benchmarks/{room}" for room in ROOMS)))
    assert [name for name in names if re.match(f"medfocus/({rooms})/", name)] == []
    assert {Path(name).suffix for name in names} <= {
        ".py",
        ".typed",
        ".json",
        ".j2",
        ".md",
        ".safetensors",
    }
