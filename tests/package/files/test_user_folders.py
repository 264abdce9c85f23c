"""The home and cache folders, also where there are none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medfocus.files.user_folders import cache_folder, keep_caches_together, replace_missing_home

# Without HOME and without an entry in the list of users, as for HOME=~, this finds no folder.
WITHOUT_ENTRY = """
import os, pwd

def missing(_):
    raise KeyError

pwd.getpwuid = missing
import medfocus
print(os.environ["HOME"])
"""


def test_the_cache_is_where_the_xdg_specification_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative/folder"):  # both to be ignored
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == tmp_path / ".cache" / "medfocus"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache" / "medfocus"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "medfocus"


@pytest.mark.parametrize("home", ["~", "~/", "folder"])
def test_a_home_folder_that_is_none_is_replaced(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setenv("HOME", home)
    replace_missing_home()
    assert Path.home() == Path(os.devnull)


def test_a_user_without_an_entry_gets_a_home_that_cannot_be_written() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    command = [sys.executable, "-c", WITHOUT_ENTRY]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == f"{os.devnull}\n"


def test_a_home_folder_that_there_is_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for home in (str(tmp_path), str(tmp_path / "missing")):
        monkeypatch.setenv("HOME", home)
        replace_missing_home()
        assert os.environ["HOME"] == home


VARIABLES = ("CUDA_CACHE_PATH", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


@pytest.mark.parametrize("writable", [True, False])
def test_caches_of_other_packages_are_together_where_they_can_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, writable: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path) if writable else os.devnull)
    for name in VARIABLES[1:]:
        monkeypatch.setenv(name, "restored by monkeypatch")
        monkeypatch.delenv(name)
    monkeypatch.setenv(VARIABLES[0], "/given/by/the/user")
    keep_caches_together()
    assert os.environ[VARIABLES[0]] == "/given/by/the/user"
    (root,) = {Path(os.environ[name]).parent for name in VARIABLES[1:]}
    assert os.access(root, os.W_OK)
    assert (root == tmp_path / "medfocus") == writable


def test_where_nothing_can_be_written_caches_stay_where_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    monkeypatch.setattr("tempfile.tempdir", os.devnull)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    keep_caches_together()
    assert not {*VARIABLES} & {*os.environ}
