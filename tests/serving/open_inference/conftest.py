"""A service over HTTP and gRPC, on ports of its own, in a thread."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from medfocus.engine import Engine
from medfocus.serving.command import service
from medfocus.serving.config import checked
from medfocus.serving.open_inference.grpc_server import grpc_server
from medfocus.serving.server import listening, uvicorn_config
from medfocus.serving.state import Service
from tests.waiting import wait_until


@dataclass(frozen=True)
class Running:
    """Addresses, without a scheme, and the service itself."""

    http: str
    grpc: str
    service: Service


ServeBoth = Callable[..., Running]


@contextmanager
def running(made: Service) -> Iterator[Running]:
    accepting = listening(made.config)
    server = uvicorn.Server(uvicorn_config(made))
    ports: list[int] = []

    async def serve() -> None:
        calls, port = await grpc_server(made, 0)
        await calls.start()
        ports.append(port)
        await server.serve([accepting])
        await calls.stop(10)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        wait_until(lambda: server.started)
        host = "127.0.0.1"
        yield Running(f"{host}:{accepting.getsockname()[1]}", f"{host}:{ports[0]}", made)
    finally:
        server.should_exit = True
        thread.join()
        made.engines.close()


@pytest.fixture
def serve_both(engine_directory: Path) -> Iterator[ServeBoth]:
    """A function from parts of the configuration to a service with engine `tiny`."""
    with ExitStack() as stack:

        def start(**values: object) -> Running:
            engines = {"tiny": {"path": str(engine_directory), "deterministic": True}}
            made = service(checked({"engines": engines, "port": 0, **values}, Path(), "test"))
            made.engines.load("tiny", made.config.engines["tiny"])
            return stack.enter_context(running(made))

        yield start


class Held:
    """An engine's `submit` that never answers, and what became of it."""

    def __init__(self) -> None:
        self.began, self.future = threading.Event(), Future[Any]()

    def __call__(self, *_: object, **__: object) -> Future[Any]:
        self.began.set()
        return self.future


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    found = Held()
    monkeypatch.setattr(Engine, "submit", found)
    return found
