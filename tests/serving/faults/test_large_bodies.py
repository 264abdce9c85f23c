"""A gigabyte: refused by its declared size, or once the limit is passed; never read whole."""

import json
import socket
from contextlib import suppress
from http.client import HTTPResponse

import pytest

from tests.serving.faults.conftest import BODY_BYTES
from tests.serving.process import ServiceProcess

GIGABYTE = 10**9
KINDS = ["multipart/form-data; boundary=B", "application/json", "image/png"]
ADDRESSES = ["/v1/engines/tiny/classify", "/dicom-web/studies"]
TYPES = [(ADDRESSES[0], kind) for kind in KINDS] + [(ADDRESSES[1], "application/dicom")]
MOST_MEMORY = 64 * 2**20  # of which `BODY_BYTES` and copies of them are a part


def head(address: str, kind: str, length: str) -> bytes:
    lines = (f"POST {address} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", length)
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


@pytest.mark.parametrize(("address", "kind"), TYPES)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_gigabyte(service: ServiceProcess, address: str, kind: str, chunked: bool) -> None:
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {GIGABYTE}"
    piece = b" " * 2**16
    if "multipart" in kind:
        start = b'--B\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        piece = start.ljust(2**16, b"a")
    before = service.peak_bytes()
    with socket.create_connection(service.address, timeout=120) as connection:
        connection.sendall(head(address, kind, length))
        if chunked:  # else it is refused before any of it has come
            with suppress(ConnectionError):
                for _ in range(2 * BODY_BYTES // len(piece)):
                    connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        response = HTTPResponse(connection)
        response.begin()
        assert response.status == 413
        assert json.loads(response.read())["code"] == "serve.body_too_large"
    assert service.peak_bytes() - before < MOST_MEMORY


def test_who_goes_on_sending_is_cut_off(service: ServiceProcess) -> None:
    before = service.peak_bytes()
    with socket.create_connection(service.address, timeout=120) as connection:
        connection.sendall(head(ADDRESSES[0], "image/png", "Transfer-Encoding: chunked"))
        with pytest.raises(ConnectionError):  # noqa: PT012
            while True:
                connection.sendall(b"10000\r\n%b\r\n" % bytes(2**16))
    assert service.peak_bytes() - before < MOST_MEMORY
