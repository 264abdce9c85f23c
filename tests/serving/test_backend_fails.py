"""A backend that fails: what clients see, and how the engine comes back."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from medfocus.errors import EngineDirectoryError
from medfocus.serving.command import service
from medfocus.serving.config import checked
from medfocus.serving.state import Service
from tests.serving.api.test_classify import ADDRESS, png
from tests.serving.conftest import running
from tests.waiting import wait_until

IMAGES = {"images": [base64.b64encode(png(seed)).decode() for seed in (1, 2)]}


@contextmanager
def served(engine_directory: Path, **settings: object) -> Iterator[tuple[Service, httpx.Client]]:
    engines = {"tiny": {"path": str(engine_directory), **settings}}
    made = service(checked({"engines": engines, "port": 0}, Path(), "test"))
    made.engines.load("tiny", made.config.engines["tiny"])
    with running(made) as client:
        yield made, client


def break_backend(made: Service) -> None:
    (ready,) = made.engines.ready()

    def fail() -> None:
        raise RuntimeError("an illegal memory access, and Smith^John")

    for buffers in ready.engine._pipeline._buffers:
        buffers.classify = fail  # type: ignore[method-assign]


def refused(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["retry-after"] == "1"
    assert "Smith" not in response.text
    return response.status_code, response.json()["code"]


def state(client: httpx.Client) -> tuple[int, str]:
    response = client.get("/readyz")
    assert "Smith" not in response.text
    return response.status_code, response.json()["engines"][0]["state"]


def test_an_engine_whose_backend_failed_comes_back_by_itself(engine_directory: Path) -> None:
    with served(engine_directory) as (made, client):
        (former,) = made.engines.ready()
        break_backend(made)
        assert refused(client.post(ADDRESS, json=IMAGES)) == (503, "device.failed")
        wait_until(lambda: state(client) == (200, "ready"))
        assert made.engines.ready() != [former]
        assert client.post(ADDRESS, json=IMAGES).status_code == 200
        assert client.get("/livez").status_code == 200


def test_one_that_cannot_be_loaded_again_waits_for_an_administrator(
    engine_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def refuse(settings: Any) -> Any:
        attempts.append(settings)
        raise EngineDirectoryError("engines/tiny", "was changed", "export it again")

    with served(engine_directory) as (made, client):
        break_backend(made)
        with monkeypatch.context() as patch:
            patch.setattr(made.engines, "_load", refuse)
            assert refused(client.post(ADDRESS, json=IMAGES)) == (503, "device.failed")
            wait_until(lambda: bool(attempts) and state(client) == (503, "failed"))
            for _ in range(3):
                assert refused(client.post(ADDRESS, json=IMAGES)) == (503, "serve.not_ready")
            assert client.get("/livez").status_code == 503
            assert len(attempts) == 1
        assert client.post("/v1/engines/tiny/load").status_code == 200
        assert state(client) == (200, "ready")
        assert client.get("/livez").status_code == 200
        assert client.post(ADDRESS, json=IMAGES).status_code == 200
