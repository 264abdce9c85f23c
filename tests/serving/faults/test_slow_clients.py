"""A hundred slow clients at once: others are answered meanwhile, and nothing of them is left."""

import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest

from tests.serving.faults.conftest import answer
from tests.serving.process import ServiceProcess
from tests.waiting import wait_until

CLIENTS = 100
HEAD = b"POST /v1/engines/tiny/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
Step = Callable[[socket.socket], object]


def in_headers(connection: socket.socket) -> None:
    connection.sendall(b"X-More: 1\r\n")


def in_body(connection: socket.socket) -> None:
    connection.sendall(b"a")


def silent(_: socket.socket) -> None:
    pass


SCRIPT = b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
SLOW = [
    (b"", silent),
    (HEAD, in_headers),
    (HEAD + b"Content-Length: 100000\r\n\r\n", in_body),
    (SCRIPT * 4, silent),  # megabytes of answers that are never read
]


@pytest.mark.parametrize(("begin", "step"), SLOW)
def test_slow_clients(service: ServiceProcess, begin: bytes, step: Step) -> None:
    before = service.descriptors()
    with ExitStack() as stack:
        slow = []
        for _ in range(CLIENTS):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(120)
            connection.connect(service.address)
            connection.sendall(begin)
            slow.append(connection)
        # Half of them: the first may be cut off before the last is accepted.
        wait_until(lambda: service.descriptors() >= before + CLIENTS // 2)
        answer(service)

        def cut_off() -> bool:
            for connection in slow:  # a byte now and then: never idle
                with suppress(ConnectionError):
                    step(connection)
            return service.descriptors() <= before + 1

        wait_until(cut_off)  # though the clients hold on
