"""A request whose time is over, or whose client is gone, leaves no work behind."""

import base64
import threading
from pathlib import Path

import httpx
import pytest

from tests.serving.api.test_classify import ADDRESS, png
from tests.serving.test_backend_fails import served
from tests.waiting import wait_until

IMAGES = {"images": [base64.b64encode(png(seed)).decode() for seed in range(6)]}


@pytest.mark.parametrize("ending", ["deadline", "gone"])
def test_its_images_are_dropped_while_a_batch_runs(engine_directory: Path, ending: str) -> None:
    gate = threading.Event()
    with served(engine_directory, deterministic=True) as (made, client):
        (ready,) = made.engines.ready()
        for buffers in ready.engine._pipeline._buffers:
            segment = buffers.segment

            def late(segment=segment) -> None:
                assert gate.wait(120)
                segment()

            buffers.segment = late  # type: ignore[method-assign]
        try:
            if ending == "deadline":
                headers = {"x-request-timeout": "1"}
                response = client.post(ADDRESS, json=IMAGES, headers=headers)
                assert (response.status_code, response.json()["code"]) == (504, "serve.deadline")
            else:
                with pytest.raises(httpx.ReadTimeout):
                    client.post(ADDRESS, json=IMAGES, timeout=1)
            wait_until(lambda: ready.engine.stats().waiting == 0 and ready.held == 0)
        finally:
            gate.set()
        wait_until(lambda: ready.engine.stats().waiting_bytes == 0)
        assert ready.engine.stats().images <= 2  # one in each batch that was under way
        assert client.post(ADDRESS, json=IMAGES).status_code == 200
