"""A service on a port of its own, in a thread; real HTTP."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

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


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What an operator's SDK of OpenTelemetry gets; really, a process sets it up only once."""
    provider, found = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(found))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield found
    provider.shutdown()
