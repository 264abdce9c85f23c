"""Bodies that are small, and would take much memory; bodies of many clients at once."""

import json
import re
import resource
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from medfocus.serving.body_memory import MOST_BODIES
from medfocus.serving.errors import RequestError
from medfocus.serving.open_inference.http_body import HEADER, parsed
from medfocus.serving.open_inference.tensors import OUTPUTS
from tests.errors import refuses
from tests.serving.open_inference.conftest import Held, ServeBoth
from tests.serving.open_inference.test_grpc import request, stub_of
from tests.serving.open_inference.test_http import INFER, images
from tests.waiting import wait_until

MOST_MEMORY = 512 * 2**20  # more than the process has already


@contextmanager
def little_memory() -> Iterator[None]:
    status = Path("/proc/self/status").read_text()
    match = re.search(r"VmSize:\s+(\d+) kB", status)
    assert match
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (int(match[1]) * 1024 + MOST_MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("nested", [False, True])
def test_a_long_text_among_numbers(nested: bool) -> None:
    count = 30_000  # as texts of that length, 7 GB
    data: list[Any] = ["a" * 60_000, *[0] * (count - 1)]
    if nested:
        data = [[[each] for each in data]]
    body = {**images(), "datatype": "UINT8", "shape": [1, count, 1], "data": data}
    content = json.dumps({"inputs": [body]}).encode()
    with little_memory(), refuses(RequestError, "serve.request", "tensor images"):
        parsed(content, None, 8)


@pytest.mark.parametrize("name", ["inputs", "outputs"])
def test_more_tensors_than_there_are(name: str) -> None:
    one = {"name": "label"} if name == "outputs" else images("AAAA")
    body = {"inputs": [images("AAAA")], name: [one] * (len(OUTPUTS) + 1)}
    with refuses(RequestError, "serve.request", name):
        parsed(json.dumps(body).encode(), None, 8)


def test_an_axis_that_numpy_cannot_hold() -> None:
    for shape in ([0, 2**31, 2**31, 3], [1, 0, 2**31 + 1], [1, 0, 2**62]):
        inline: dict[str, Any] = {"data": []}
        binary: dict[str, Any] = {"data": None, "parameters": {"binary_data_size": 0}}
        for more in (inline, binary):
            body = {**images(), "datatype": "UINT8", "shape": shape, **more}
            text = json.dumps({"inputs": [body]}).encode()
            with refuses(RequestError, "serve.request"):
                parsed(text, str(len(text)), 8)


def test_bodies_of_all_clients_together_are_limited(serve_both: ServeBoth, held: Held) -> None:
    running = serve_both(limits={"body_bytes": 20_000})
    url = f"http://{running.http}{INFER}"
    body = json.dumps({"inputs": [images("AAAA")], "id": "a" * 19_000}).encode()
    large = request(b"a" * 19_000)
    stub = stub_of(running)
    states = running.service.engines.states
    with ThreadPoolExecutor(MOST_BODIES) as pool:
        waiting = [pool.submit(httpx.post, url, content=body, timeout=120) for _ in range(2)]
        calls = [stub.ModelInfer.future(large) for _ in range(MOST_BODIES - 2)]
        wait_until(lambda: states()[0].held == MOST_BODIES)
        refused = httpx.post(url, content=body, timeout=120)
        assert (refused.status_code, refused.json()["code"]) == (429, "serve.busy")
        assert int(refused.headers["retry-after"]) > 0
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(large, timeout=60)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(caught.value.trailing_metadata())["code"] == "serve.busy"
        held.future.set_result([])
        assert {each.result().status_code for each in waiting} == {200}
        assert all(each.result() for each in calls)
    for _ in range(2 * MOST_BODIES):  # what was taken was given back
        assert httpx.post(url, content=body, timeout=120).status_code == 200


@pytest.mark.parametrize(("name", "status"), [("tiny", 429), ("none", 404)])
def test_who_cannot_be_answered_is_told_before_the_body(
    serve_both: ServeBoth, held: Held, name: str, status: int
) -> None:
    running = serve_both(limits={"queue": 1})
    waiting = stub_of(running).ModelInfer.future(request(b"a"))
    assert held.began.wait(60)
    host, _, port = running.http.partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        address = f"/v2/models/{name}/infer"
        head = f"POST {address} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n"
        connection.sendall(head.encode())
        response = HTTPResponse(connection)
        response.begin()
        assert response.status == status
    held.future.set_result([])
    assert waiting.result()


def test_options_are_not_large(serve_both: ServeBoth) -> None:
    url = f"http://{serve_both().http}/v2/repository"
    for address in ("index", "models/tiny/load"):
        response = httpx.post(f"{url}/{address}", content=b" " * 70_000)
        assert (response.status_code, response.json()["code"]) == (413, "serve.body_too_large")
    assert HEADER not in response.headers
