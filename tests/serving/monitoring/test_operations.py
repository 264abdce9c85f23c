"""What operations see: readiness, metrics that Prometheus' own parser reads, the access log."""

import base64
import json
import logging
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import medfocus
from medfocus.engine import Engine
from medfocus.serving.monitoring.engine_metrics import EngineCollector
from tests.serving.api.test_classify import ADDRESS, png
from tests.serving.conftest import Serve
from tests.waiting import wait_until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Value by name, and labels' values in the order of their names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_what_was_done(serve: Serve, engine: Engine) -> None:
    client = serve()
    images = [base64.b64encode(data).decode() for data in (png(1), png(2), b"none")]
    for _ in range(2):
        assert client.post(ADDRESS, json={"images": images}).status_code == 200
    client.post("/v1/engines/patient/classify", json={"images": images})
    client.get("/patient")
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    found = samples(response.text)
    route = "/v1/engines/{name}/classify"
    (state,) = client.get("/v1/engines").json()
    expected = {
        ("medfocus_requests_total", route, "200"): 2,
        ("medfocus_requests_total", route, "404"): 1,
        ("medfocus_requests_total", "unknown", "404"): 1,
        ("medfocus_request_seconds_count", route): 3,
        ("medfocus_images_total", "ok", "tiny"): 4,
        ("medfocus_engine_ready", "tiny"): 1,
        ("medfocus_queue_images", "tiny"): 0,
        ("medfocus_queue_limit_images", "tiny"): 1024,
        ("medfocus_info", medfocus.__version__): 1,
        ("medfocus_engine_info", state["backend"], state["device"], "tiny", state["version"]): 1,
        ("medfocus_stage_images_total", "tiny", "classify"): 4,
    }
    assert {key: found[key] for key in expected} == expected
    error = engine.classify([b"none"])[0].error
    assert error is not None
    assert found["medfocus_images_total", error.code, "tiny"] == 2
    assert found["process_resident_memory_bytes",] > 2**20
    assert "patient" not in response.text


def test_stages_are_counted_on_over_an_engines_replacement(serve: Serve) -> None:
    """Three images in one request, and after the replacement one more: each alone in its batch."""
    client = serve()
    for images in (3, 1):
        files = [("files", (f"{seed}.png", png(seed))) for seed in range(images)]
        assert client.post(ADDRESS, files=files).status_code == 200
        assert client.post("/v1/engines/tiny/load").status_code == 200
    found = samples(client.get("/metrics").text)
    for stage in ("read", "prepare", "segment", "classify", "answer"):
        assert found["medfocus_stage_seconds_count", "tiny", stage] == 4
        assert found["medfocus_stage_seconds_bucket", "tiny", "+Inf", stage] == 4
        assert found["medfocus_stage_seconds_sum", "tiny", stage] > 0
        assert found["medfocus_stage_images_total", "tiny", stage] == 4
        assert found["medfocus_stage_waited_seconds_total", "tiny", stage] >= 0
    assert found["medfocus_queue_seconds_count", "tiny"] == 4
    assert found["medfocus_batch_images_bucket", "tiny", "1.0"] == 4
    assert found["medfocus_batch_images_sum", "tiny"] == 4


class Gpu:
    """In place of torch: one GPU, with a quarter of its memory free."""

    cuda = SimpleNamespace(mem_get_info=lambda device: {"cuda:1": (2**30, 2**32)}[device])


def test_memory_of_gpus_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SimpleNamespace(
        device="cuda:1", stats=lambda: SimpleNamespace(buffer_bytes=5, waiting_bytes=6)
    )
    engines = SimpleNamespace(
        states=list, ready=lambda: [SimpleNamespace(name="tiny", engine=engine)]
    )
    monkeypatch.setitem(sys.modules, "torch", Gpu)
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in EngineCollector(engines).collect()  # type: ignore[arg-type]
        for sample in family.samples
    }
    assert found == {
        ("medfocus_engine_bytes", "tiny", "buffers"): 5,
        ("medfocus_engine_bytes", "tiny", "images"): 6,
        ("medfocus_gpu_used_bytes", "cuda:1"): 3 * 2**30,
        ("medfocus_gpu_size_bytes", "cuda:1"): 2**32,
    }


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_own_tool_has_nothing_to_say_about_the_metrics(serve: Serve) -> None:
    client = serve()
    client.post(ADDRESS, json={"images": ["AAAA"]})
    client.get("/none")
    text = client.get("/metrics").text
    found = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


def test_readiness_follows_the_engines(serve: Serve) -> None:
    client = serve()
    assert client.get("/livez").json() == {"status": "alive"}
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["engines"][0]["state"]) == (200, "ready")
    assert client.post("/v1/engines/tiny/load").status_code == 200
    assert client.get("/readyz").status_code == 200
    assert client.post("/v1/engines/tiny/unload").status_code == 200
    assert client.get("/readyz").status_code == 503
    assert client.post(ADDRESS, json={"images": ["AAAA"]}).status_code == 404
    assert client.post("/v1/engines/tiny/load").status_code == 200
    assert client.post(ADDRESS, json={"images": ["AAAA"]}).status_code == 200


def test_the_access_log_has_nothing_of_an_image(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    client = serve()
    with caplog.at_level(logging.INFO, "medfocus.access"):
        headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        files = [("files", ("smith-john.png", png(1)))]
        client.post(f"{ADDRESS}?patient=smith", files=files, headers=headers)
        client.get("/smith", headers={"traceparent": "00-smith"})
        client.post("/v1/engines/smith/classify", files=files)
        wait_until(lambda: len(caplog.records) >= 3)  # a line follows its answer
    lines: list[dict[str, Any]] = [
        json.loads(record.message) for record in caplog.records if record.name == "medfocus.access"
    ]
    first, second, third = lines
    assert {name: first[name] for name in ("method", "route", "engine", "status", "trace")} == {
        "method": "POST",
        "route": "/v1/engines/{name}/classify",
        "engine": "tiny",
        "status": 200,
        "trace": TRACE,
    }
    assert first["received"] > len(png(1))
    assert (second["route"], second["status"]) == ("unknown", 404)
    assert "trace" not in second
    assert "code" not in first
    assert third["code"] == "serve.unknown_engine"
    assert "engine" not in third
    assert "smith" not in caplog.text


def test_the_page_for_trying_requests_loads_nothing_from_elsewhere(serve: Serve) -> None:
    client = serve()
    page = client.get("/docs").text
    loaded = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", page)
    assert len(loaded) >= 3
    for address in loaded:
        assert address.startswith("/")
        assert client.get(address).status_code == 200
