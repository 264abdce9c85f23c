"""Tokens over HTTP, and limits on clients that are slow."""

import json
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from medfocus.serving.security.tokens import Role
from tests.serving.conftest import Serve
from tests.serving.test_config import OTHER, TOKEN, written
from tests.waiting import wait_until


def test_each_route_wants_its_role(serve: Serve, tmp_path: Path) -> None:
    file = written(tmp_path, f"classify {TOKEN}\nadminister {OTHER}\n", "tokens")
    client = serve(security={"token_file": str(file)})
    wanted: dict[tuple[str, str], Role | None] = {
        ("GET", "/livez"): None,
        ("GET", "/readyz"): None,
        ("GET", "/metrics"): None,
        ("GET", "/v1/engines"): "classify",
        ("GET", "/v1/engines/tiny/manifest"): "classify",
        ("POST", "/v1/engines/tiny/classify"): "classify",
        ("POST", "/v1/engines/tiny/load"): "administer",
        ("POST", "/v1/engines/tiny/unload"): "administer",
        ("POST", "/dicom-web/studies"): "classify",
        ("POST", "/dicom-web/studies/{study}"): "classify",
        ("GET", "/v2"): None,
        ("GET", "/v2/health/live"): None,
        ("GET", "/v2/health/ready"): None,
        ("GET", "/v2/models/tiny"): "classify",
        ("GET", "/v2/models/tiny/versions/{version}"): "classify",
        ("GET", "/v2/models/tiny/ready"): None,
        ("GET", "/v2/models/tiny/versions/{version}/ready"): None,
        ("POST", "/v2/models/tiny/infer"): "classify",
        ("POST", "/v2/models/tiny/versions/{version}/infer"): "classify",
        ("POST", "/v2/repository/index"): "classify",
        ("POST", "/v2/repository/models/tiny/load"): "administer",
        ("POST", "/v2/repository/models/tiny/unload"): "administer",
    }
    paths = client.get("/openapi.json").json()["paths"]
    routes = {(m.upper(), path) for path, methods in paths.items() for m in methods}
    assert routes == {(method, path.replace("tiny", "{name}")) for method, path in wanted}
    allowed = {None: [], "classify": ["classify"], "administer": ["classify", "administer"]}
    for token, roles in (("", []), (TOKEN, ["classify"]), (OTHER, allowed["administer"])):
        headers = {"authorization": f"Bearer {token}"} if token else {}
        for (method, path), role in wanted.items():
            response = client.request(method, path, headers=headers, json={"images": ["AAAA"]})
            refused = None if role is None or role in roles else 403 if roles else 401
            # Who is let in is answered, if only that this is the body of another route.
            answered = response.status_code if response.status_code in (401, 403) else None
            assert answered == refused, (path, token)
            if refused == 401:
                assert response.headers["www-authenticate"] == "Bearer"


def test_a_client_that_stops_in_the_middle_is_answered(serve: Serve) -> None:
    client = serve(limits={"idle_seconds": 0.2})
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as connection:
        connection.sendall(
            b"POST /v1/engines/tiny/classify HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        found = connection.makefile("rb").read()  # until the service closes it
    head, _, body = found.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["code"] == "serve.client_too_slow"


def test_a_body_that_comes_too_slowly_is_answered(serve: Serve) -> None:
    client = serve(limits={"idle_seconds": 0.5})
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as connection:
        connection.sendall(
            b"POST /v1/engines/tiny/classify HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
        )
        connection.settimeout(0.05)
        found = b""
        while not found:  # a byte now and then: never idle for half a second
            connection.sendall(b"{")
            with suppress(TimeoutError):
                found = connection.recv(4096)
    assert found.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/engines/tiny/classify", "multipart/form-data; boundary=B"),
        ("/v1/engines/tiny/classify", "application/json"),
        ("/v1/engines/tiny/classify", "application/dicom"),
        ("/dicom-web/studies", 'multipart/related; type="application/dicom"; boundary=B'),
    ],
)
def test_a_client_that_leaves_in_the_middle_is_no_failure(
    serve: Serve, path: str, kind: str
) -> None:
    client = serve()
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
            "Content-Length: 9999\r\n\r\n--B\r\nContent-Type: application/dicom\r\n"
            'Content-Disposition: form-data; name="files"; filename="a"\r\n\r\na'.encode()
        )
    counted = f'medfocus_requests_total{{route="{path.replace("tiny", "{name}")}",status='
    wait_until(lambda: counted in client.get("/metrics").text)
    assert f'{counted}"499"}} 1.0' in client.get("/metrics").text
