"""Runs the service in one event loop: SIGTERM and Ctrl-C drain and end it, SIGHUP reloads."""

import asyncio
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from medfocus.errors import FileError, InputError, MedfocusError
from medfocus.files.file_errors import reason
from medfocus.serving.app import application
from medfocus.serving.config import ServeConfig
from medfocus.serving.connections import GuardedConnection
from medfocus.serving.reload import reload
from medfocus.serving.security.certificates import warn_of_validity
from medfocus.serving.state import Service

KEEP_ALIVE_SECONDS = 75  # longer than what load balancers commonly keep an idle connection

log = logging.getLogger(__name__)

_one_reload = threading.Lock()  # a second SIGHUP reads the configuration after the first


class _Server(uvicorn.Server):
    """Leaves signals to `serve`: uvicorn would raise them again before the engines are closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listening(config: ServeConfig) -> socket.socket:
    """A socket that accepts connections at the configured address.

    Raises:
        InputError: the address cannot be listened on (`serve.address`).
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        found = socket.create_server((config.host, config.port), family=family, backlog=2048)
        # Its connections inherit this; else the end of an answer waits 40 ms for the client's
        # acknowledgement of the beginning.
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return found
    except OSError as error:
        item = f"{config.host}, port {config.port}"
        hint = "use an address of this machine and a free port, or --port 0"
        problem = f"cannot be listened on ({reason(error)})"
        raise InputError(item, problem, hint, code="serve.address") from error


async def serve(
    service: Service, accepting: socket.socket, read: Callable[[], ServeConfig]
) -> None:
    """Load the engines and answer requests; after a signal, only those that were accepted.

    `/livez` answers from the start, and each engine as soon as it is loaded.

    Args:
        service: without engines yet.
        accepting: from `listening`.
        read: the configuration as it is now, for SIGHUP.

    Raises:
        FileError: the certificate or its key cannot be used.
        InputError: the address for gRPC cannot be listened on (`serve.address`).
        MedfocusError: an engine cannot be loaded.
    """
    server = _Server(uvicorn_config(service))
    calls = await _grpc_servers(service)
    aborting: list[asyncio.Future[None]] = []
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        if stopping.is_set():  # a second signal waits for nothing
            server.force_exit = True
            for each in calls:
                aborting.append(asyncio.ensure_future(each.stop(None)))
        stopping.set()

    reloads: set[asyncio.Task[None]] = set()

    def follow() -> None:
        task = asyncio.ensure_future(asyncio.to_thread(_reload, service, read))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, follow)
    serving = asyncio.ensure_future(server.serve([accepting]))
    loading = asyncio.ensure_future(asyncio.to_thread(_load, service, stopping))
    waiting = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({loading, serving, waiting}, return_when="FIRST_COMPLETED")
        if not stopping.is_set():
            await loading
            await asyncio.wait({serving, waiting}, return_when="FIRST_COMPLETED")
    finally:
        service.stopping = True
        server.should_exit = True
        drained = (each.stop(service.config.limits.drain_seconds) for each in calls)
        await asyncio.gather(serving, *drained)
        for task in server.server_state.tasks:  # there are some only after a second signal
            task.cancel()
        waiting.cancel()
        await asyncio.to_thread(service.engines.close)


async def _grpc_servers(service: Service) -> list[Any]:
    """The gRPC server, started; none unless the configuration has a port for it."""
    port = service.config.grpc_port
    if port is None:
        return []
    # Its own resolver would read how to look names up; there are none to look up.
    os.environ.setdefault("GRPC_DNS_RESOLVER", "native")
    from medfocus.serving.open_inference.grpc_server import grpc_server

    server, port = await grpc_server(service, port)
    await server.start()
    log.info("listening for gRPC on port %d", port)
    return [server]


def _load(service: Service, stopping: asyncio.Event) -> None:
    for name in list(service.config.engines):
        settings = service.config.engines.get(name)  # as it is now: SIGHUP may come in between
        if not (stopping.is_set() or settings is None or service.engines.serves(name)):
            service.engines.load(name, settings)


def _reload(service: Service, read: Callable[[], ServeConfig]) -> None:
    with _one_reload:
        try:
            reload(service, read())
        except MedfocusError as error:
            log.error("not reloaded: %s", error)


def uvicorn_config(service: Service) -> uvicorn.Config:
    """How uvicorn runs the service.

    Raises:
        FileError: the certificate or its key cannot be used (`serve.certificate`).
    """
    limits, security = service.config.limits, service.config.security
    connection = type("Connection", (GuardedConnection,), {"seconds": limits.idle_seconds})
    config = uvicorn.Config(
        application(service),
        http=connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(limits.drain_seconds),
        ssl_certfile=security.certificate,
        ssl_keyfile=security.key,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError too
        hint = "give PEM files of a certificate and its own key, readable by the service"
        item, problem = str(security.certificate), f"cannot be used ({reason(error)})"
        raise FileError(item, problem, hint, code="serve.certificate") from error
    if config.ssl is not None and security.certificate is not None:
        warn_of_validity(security.certificate, config.ssl)
    return config
