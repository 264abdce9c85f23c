"""A service on a port of its own, in a thread; real HTTP."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from medfocus.engine import Engine
from medfocus.serving.command import service
from medfocus.serving.config import checked
from medfocus.serving.server import listening, uvicorn_config
from medfocus.serving.state import Service
from tests.waiting import wait_until

Serve = Callable[..., httpx.Client]


@contextmanager
def running(made: Service) -> Iterator[httpx.Client]:
    accepting = listening(made.config)
    server = uvicorn.Server(uvicorn_config(made))
    thread = threading.Thread(target=server.run, args=([accepting],))
    thread.start()
    try:
        wait_until(lambda: server.started)
        port = accepting.getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        made.engines.close()


@pytest.fixture
def serve(engine_directory: Path) -> Iterator[Serve]:
    """A function from parts of the configuration to a client of a service with engine `tiny`."""
    with ExitStack() as stack:

        def start(**values: object) -> httpx.Client:
            engines = {"tiny": {"path": str(engine_directory), "deterministic": True}}
            made = service(checked({"engines": engines, "port": 0, **values}, Path(), "test"))
            made.engines.load("tiny", made.config.engines["tiny"])
            return stack.enter_context(running(made))

        yield start


@pytest.fixture
def engine(engine_directory: Path) -> Iterator[Engine]:
    with Engine.load(engine_directory, deterministic=True) as loaded:
        yield loaded
