"""SIGHUP: what changed on disk is taken up, what is broken leaves the former in place."""

import asyncio
import shutil
from pathlib import Path

import pytest

from medfocus.errors import InputError
from medfocus.serving import server
from medfocus.serving.command import service
from medfocus.serving.config import EngineSettings, ServeConfig, checked
from medfocus.serving.reload import reload
from medfocus.serving.state import Service
from tests.errors import refuses
from tests.serving.test_config import OTHER, TOKEN, written


def config_of(folder: Path, *names: str) -> ServeConfig:
    engines = {name: {"path": name} for name in names}
    security = {"token_file": "tokens"}
    return checked({"engines": engines, "security": security}, folder, "test")


@pytest.fixture
def running(tmp_path: Path, engine_directory: Path) -> Service:
    for name in ("a", "b"):
        shutil.copytree(engine_directory, tmp_path / name)
    written(tmp_path, f"classify {TOKEN}\n", "tokens")
    made = service(config_of(tmp_path, "a"))
    made.engines.load("a", made.config.engines["a"])
    return made


def test_engines_and_tokens_follow_the_configuration(running: Service, tmp_path: Path) -> None:
    former = running.engines.ready()[0]
    written(tmp_path, f"administer {OTHER}\n", "tokens")
    config = config_of(tmp_path, "a", "b").model_copy(update={"dicomweb_engine": "b"})
    reload(running, config)
    assert running.config == config
    assert running.tokens is not None
    assert [running.tokens.role(f"Bearer {token}") for token in (TOKEN, OTHER)] == [
        None,
        "administer",
    ]
    assert running.engines.ready()[0] is former  # the same on disk
    assert [state.name for state in running.engines.states()] == ["a", "b"]
    reload(running, config_of(tmp_path, "b"))
    assert [state.name for state in running.engines.states()] == ["b"]
    running.engines.close()


def test_a_replaced_directory_is_loaded_and_a_broken_one_is_not(
    running: Service, tmp_path: Path, engine_directory: Path
) -> None:
    former = running.engines.ready()[0]
    (tmp_path / "a" / "manifest.json").write_text("{}")
    reload(running, config_of(tmp_path, "a"))
    shutil.rmtree(tmp_path / "a")
    reload(running, config_of(tmp_path, "a"))
    assert running.engines.ready()[0] is former
    shutil.copytree(engine_directory, tmp_path / "a")
    changed = running.config.engines["a"].model_copy(update={"deterministic": True})
    reload(running, running.config.model_copy(update={"engines": {"a": changed}}))
    assert running.engines.ready()[0] is not former
    running.engines.close()


def test_a_broken_token_file_changes_nothing(running: Service, tmp_path: Path) -> None:
    written(tmp_path, "owner", "tokens")
    with refuses(InputError, "serve.token_file"):
        reload(running, config_of(tmp_path, "b"))
    assert running.tokens is not None
    assert running.tokens.role(f"Bearer {TOKEN}") == "classify"
    assert [state.name for state in running.engines.states()] == ["a"]
    running.engines.close()


def test_what_changes_while_the_service_starts_is_not_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, f"classify {TOKEN}\n", "tokens")
    made = service(config_of(tmp_path, "a", "b", "c"))
    changed = made.config.engines["b"].model_copy(update={"max_batch": 2})
    loads: list[tuple[str, int | None]] = []

    def load(name: str, settings: EngineSettings) -> None:
        loads.append((name, settings.max_batch))
        if name == "a":  # SIGHUP comes while it is loaded
            monkeypatch.setattr(made.engines, "serves", lambda name: name == "a")
            engines = {"a": settings, "b": changed}
            made.config = made.config.model_copy(update={"engines": engines})

    monkeypatch.setattr(made.engines, "load", load)
    server._load(made, asyncio.Event())
    assert loads == [("a", None), ("b", 2)]
