"""A request whose time is over, or whose client is gone, leaves no work behind."""

import base64
import http.client
import json
import threading
from pathlib import Path

import pytest

from tests.serving.api.test_classify import ADDRESS, png
from tests.serving.test_backend_fails import served
from tests.waiting import wait_until

IMAGES = {"images": [base64.b64encode(png(seed)).decode() for seed in range(6)]}


@pytest.mark.parametrize("ending", ["deadline", "gone"])
def test_its_images_are_dropped_while_a_batch_runs(engine_directory: Path, ending: str) -> None:
    gate = threading.Event()
    with served(engine_directory, deterministic=True) as (made, client):
        assert client.post(ADDRESS, json=IMAGES).status_code == 200  # starts what reads files
        (ready,) = made.engines.ready()
        for buffers in ready.engine._pipeline._buffers:
            segment = buffers.segment

            def late(segment=segment) -> None:
                assert gate.wait(120)
                segment()

            buffers.segment = late  # type: ignore[method-assign]
        headers = {"content-type": "application/json"}
        if ending == "deadline":
            headers["x-request-timeout"] = "4"
        connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port)
        connection.request("POST", ADDRESS, json.dumps(IMAGES), headers)
        try:
            if (
                ending == "gone"
            ):  # two are in batches that wait for the gate, one more is read ahead
                wait_until(lambda: ready.engine.stats().waiting == 1)
            if ending == "deadline":
                response = connection.getresponse()
                assert (response.status, json.load(response)["code"]) == (504, "serve.deadline")
            connection.close()
            wait_until(lambda: ready.engine.stats().waiting == 0 and ready.held == 0)
            assert not gate.is_set()
        finally:
            gate.set()
        wait_until(lambda: ready.engine.stats().waiting_bytes == 0)
        assert ready.engine.stats().images <= 6 + 2  # those in batches that were under way
        assert client.post(ADDRESS, json=IMAGES).status_code == 200
