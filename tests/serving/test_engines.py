"""Engines are replaced and unloaded while requests go on: none is lost, none waits for a load."""

import threading
from pathlib import Path
from typing import Any

import pytest

from medfocus.engine import Engine
from medfocus.errors import EngineDirectoryError, InputError
from medfocus.serving.config import EngineSettings
from medfocus.serving.engines import EngineRegistry
from medfocus.serving.errors import BusyError, RequestError
from tests.errors import refuses
from tests.waiting import wait_until

SETTINGS = EngineSettings(path=Path("engines/a"))


class Loading:
    """In place of `Engine.load`: engines that only know whether they are closed."""

    def __init__(self, engine: Engine) -> None:
        self._manifest = engine.manifest
        self.made: list[Any] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fails = False

    def __call__(self, settings: EngineSettings) -> Any:
        assert self.gate.wait(120)
        if self.fails:
            raise EngineDirectoryError("engines/a", "was changed", "export it again")
        made = _Fake(self._manifest)
        self.made.append(made)
        return made


class _Fake:
    backend, device, failure = "torch", "cpu", None

    def __init__(self, manifest: object) -> None:
        self.manifest, self.closed = manifest, False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def loading(engine: Engine) -> Loading:
    return Loading(engine)


def test_the_former_version_answers_what_it_has_accepted(loading: Loading) -> None:
    registry = EngineRegistry(8, loading)
    registry.load("a", SETTINGS)
    with registry.admitted("a", 2) as former:
        replacing = threading.Thread(target=registry.load, args=("a",))
        replacing.start()
        wait_until(lambda: len(loading.made) == 2)
        wait_until(lambda: registry.ready()[0] is not former)
        with registry.admitted("a", 1) as latter:
            assert latter.engine == loading.made[1]
        assert not loading.made[0].closed
    replacing.join(120)
    assert [made.closed for made in loading.made] == [True, False]
    registry.close()
    assert loading.made[1].closed


def test_requests_go_on_while_the_next_version_is_loaded_and_if_it_fails(loading: Loading) -> None:
    registry = EngineRegistry(8, loading)
    registry.load("a", SETTINGS)
    loading.gate.clear()
    loading.fails = True
    errors: list[BaseException] = []

    def replace() -> None:
        try:
            registry.load("a")
        except EngineDirectoryError as error:
            errors.append(error)

    replacing = threading.Thread(target=replace)
    replacing.start()
    with registry.admitted("a", 1) as served:
        assert served.engine is loading.made[0]
    loading.gate.set()
    replacing.join(120)
    assert len(errors) == 1
    (state,) = registry.states()
    assert (state.state, bool(state.error), state.held) == ("ready", True, 0)


def test_a_full_queue_is_refused_and_one_large_request_is_not(loading: Loading) -> None:
    registry = EngineRegistry(4, loading)
    registry.load("a", SETTINGS)
    with registry.admitted("a", 3):
        with registry.admitted("a", 1):
            pass
        with refuses(BusyError, "serve.busy", "engine a"), registry.admitted("a", 2):
            pass
    with registry.admitted("a", 9):  # alone, whatever its size
        pass


def test_unknown_and_unloaded_engines_are_refused(loading: Loading) -> None:
    registry = EngineRegistry(4, loading)
    with refuses(InputError, "serve.unknown_engine", "engine a"):
        registry.load("a")
    with refuses(InputError, "serve.unknown_engine"), registry.admitted("a", 1):
        pass
    loading.fails = True
    with refuses(EngineDirectoryError, "engine.invalid"):
        registry.load("a", SETTINGS)
    assert [each.state for each in registry.states()] == ["failed"]
    with refuses(InputError, "serve.not_ready"), registry.admitted("a", 1):
        pass
    registry.unload("a")
    assert registry.states() == []


def test_an_engine_unloaded_while_its_next_version_waits_to_be_loaded_stays_unloaded(
    loading: Loading,
) -> None:
    registry = EngineRegistry(4, loading)
    registry.load("a", SETTINGS)
    slot = registry._slots["a"]
    refused: list[InputError] = []

    def replace() -> None:
        try:
            registry.load("a")
        except InputError as error:
            refused.append(error)

    with slot.lock:  # as while another version is loaded
        replacing = threading.Thread(target=replace)
        replacing.start()
        unloading = threading.Thread(target=registry.unload, args=("a",))
        unloading.start()
        wait_until(lambda: not registry.states())
    replacing.join(120)
    unloading.join(120)
    assert [error.code for error in refused] == ["serve.unknown_engine"]
    assert [made.closed for made in loading.made] == [True]


def test_a_registry_that_was_closed_says_that_the_service_stops(loading: Loading) -> None:
    registry = EngineRegistry(4, loading)
    registry.load("a", SETTINGS)
    registry.close()
    with refuses(RequestError, "serve.stopping"), registry.admitted("a", 1):
        pass
