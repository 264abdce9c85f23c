"""Clients that keep a connection waiting lose it; slow ones that go on do not."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.serving.conftest import Serve

HEAD = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"


@contextmanager
def connected(client: httpx.Client) -> Iterator[socket.socket]:
    address = client.base_url.host, client.base_url.port or 80
    with socket.create_connection(address, timeout=120) as connection:
        yield connection


def everything(connection: socket.socket) -> bytes:
    """What is read until the service closes the connection."""
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


@pytest.mark.parametrize("sent", [b"", b"GET", HEAD, HEAD + b"a: b", b"\r\n", b"\r\n" * 9])
def test_headers_that_do_not_come_in_time(serve: Serve, sent: bytes) -> None:
    with connected(serve(limits={"idle_seconds": 0.2})) as connection:
        connection.sendall(sent)
        assert everything(connection) == b""


def test_headers_that_follow_an_answer_and_do_not_come_in_time(serve: Serve) -> None:
    with connected(serve(limits={"idle_seconds": 0.5})) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(HEAD)
        assert b"HTTP/1.1 " not in everything(connection)


def test_endless_headers(serve: Serve) -> None:
    with connected(serve()) as connection:
        stopped = threading.Event()

        def send() -> None:
            try:
                connection.sendall(HEAD + b"a: ")
                while not stopped.is_set():
                    connection.sendall(b"a" * 1000)
            except OSError:
                pass

        sending = threading.Thread(target=send)
        sending.start()
        found = everything(connection)
        stopped.set()
        sending.join()
    assert found == b"" or found.startswith(b"HTTP/1.1 431 ")  # a reset may overtake the answer


@pytest.mark.parametrize("trailer", [b"a: b\r\n", b"a"], ids=["many", "one"])
def test_endless_trailers(serve: Serve, trailer: bytes) -> None:
    with connected(serve()) as connection:
        connection.sendall(
            b"POST /v1/engines/tiny/classify HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
        )
        try:
            while True:
                connection.sendall(trailer * 1000)
        except OSError:
            pass


def test_short_trailers_are_ignored(serve: Serve) -> None:
    with connected(serve()) as connection:
        reader = connection.makefile("rb")
        for _ in range(2):
            connection.sendall(
                b"POST /v1/engines/tiny/classify HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"1\r\na\r\n0\r\nChecksum: 9\r\n\r\n"
            )
            assert reader.readline().startswith(b"HTTP/1.1 200 ")
            length = 0
            while line := reader.readline().strip():
                name, _, value = line.partition(b": ")
                length = int(value) if name == b"content-length" else length
            reader.read(length)


def test_several_requests_on_one_connection_with_large_bodies(serve: Serve) -> None:
    client = serve()
    with connected(client) as connection:
        reader = connection.makefile("rb")
        body = b"a" * 200_000
        for _ in range(3):
            connection.sendall(
                b"POST /v1/engines/tiny/classify HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            assert reader.readline().startswith(b"HTTP/1.1 200 ")
            length = 0
            while line := reader.readline().strip():
                name, _, value = line.partition(b": ")
                length = int(value) if name == b"content-length" else length
            reader.read(length)


def test_an_answer_that_is_not_read(serve: Serve) -> None:
    client = serve(limits={"idle_seconds": 0.5})
    script = HEAD.replace(b"/livez", b"/static-offline-docs/swagger-ui-bundle.js") + b"\r\n"
    with connected(client) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            connection.sendall(script * 40)  # answers of a megabyte each
        except ConnectionResetError:
            return
        while True:  # the service's end is gone, whatever the client still holds
            try:
                connection.sendall(b"\r\n")
            except OSError:
                break
