"""Pages of other sites get nothing from a service without tokens."""

import socket
from pathlib import Path

import pytest

from tests.serving.conftest import Serve
from tests.serving.test_config import TOKEN, written


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://elsewhere.example"},
        {"origin": "null"},
        {"host": "rebound.example"},  # a name that its owner lets resolve to 127.0.0.1
        {"host": "rebound.example:8000", "origin": "http://rebound.example:8000"},
        {"host": "127.0.0.1.example"},
        {"host": ""},
    ],
)
def test_requests_of_other_sites_pages_are_refused(serve: Serve, headers: dict[str, str]) -> None:
    client = serve()
    for method, path in (("GET", "/v1/engines"), ("POST", "/v1/engines/tiny/unload")):
        response = client.request(method, path, headers=headers)
        assert (response.status_code, response.json()["code"]) == (403, "serve.origin")
    assert client.get("/readyz").status_code == 200  # nothing was unloaded


def test_its_own_page_and_programs_may_ask(serve: Serve, tmp_path: Path) -> None:
    client = serve()
    own = str(client.base_url).rstrip("/")
    for headers in ({}, {"origin": own}, {"host": f"localhost:{client.base_url.port}"}):
        assert client.get("/v1/engines", headers=headers).status_code == 200
    tokens = written(tmp_path, f"classify {TOKEN}\n", "tokens")
    client = serve(security={"token_file": str(tokens)})
    headers = {"authorization": f"Bearer {TOKEN}", "host": "behind.a.proxy.example"}
    assert client.get("/v1/engines", headers=headers).status_code == 200


def test_every_answer_forbids_framing_and_guessing(serve: Serve) -> None:
    client = serve()
    for path in ("/livez", "/docs", "/none", "/v1/engines"):
        headers = client.get(path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers


def test_an_open_service_answers_pages_under_names_that_nobody_else_can_give_it(
    serve: Serve,
) -> None:
    client = serve(host="0.0.0.0", security={"open": True})
    for host, status in (
        ("rebound.example", 403),
        ("127.0.0.1", 200),
        ("localhost", 200),
        (socket.gethostname(), 200),
    ):
        headers = {"host": f"{host}:80", "origin": f"http://{host}:80"}
        assert client.get("/v1/engines", headers=headers).status_code == status
    assert client.get("/v1/engines", headers={"host": "gpu.example"}).status_code == 200
