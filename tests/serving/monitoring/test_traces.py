"""Traces as OpenTelemetry's own SDK collects them: a request's span, and those of its stages."""

import asyncio
import importlib.util
import logging
import sys
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from medfocus.engine.runtime.metrics import Span
from medfocus.serving.api import engines
from medfocus.serving.monitoring import traces
from tests.serving.api.test_classify import ADDRESS, png
from tests.serving.conftest import Serve
from tests.waiting import wait_until

TRACE, CLIENT = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
HEADERS = {"traceparent": f"00-{TRACE:032x}-{CLIENT:016x}-01", "tracestate": "vendor=value"}
STAGES = ("read", "queue", "prepare", "segment", "classify", "answer")


def finished(exporter: InMemorySpanExporter) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """A request's span, which ends after its answer was sent, and all others."""
    found: list[ReadableSpan] = []

    def request() -> bool:
        found[:] = exporter.get_finished_spans()
        return any(span.kind == trace.SpanKind.SERVER for span in found)

    wait_until(request)
    (server,) = (span for span in found if span.kind == trace.SpanKind.SERVER)
    return server, [span for span in found if span is not server]


def test_a_request_and_its_stages_are_in_its_clients_trace(
    serve: Serve, exporter: InMemorySpanExporter
) -> None:
    client = serve()
    files = [("files", ("smith-john.png", data)) for data in (png(1), b"Smith^John", png(2))]
    response = client.post(f"{ADDRESS}?patient=smith", files=files, headers=HEADERS)
    server, others = finished(exporter)
    assert server.name == "POST /v1/engines/{name}/classify"
    assert (server.context.trace_id, server.parent and server.parent.span_id) == (TRACE, CLIENT)
    assert server.context.trace_state.get("vendor") == "value"
    version = response.json()["engine"]["version"]
    known = {"medfocus.engine": "tiny", "medfocus.engine.version": version}
    code = response.json()["predictions"][1]["error"]["code"]
    assert server.attributes == {
        **known,
        "medfocus.images": 3,
        "medfocus.image_errors": (code,),
        "http.request.method": "POST",
        "http.route": "/v1/engines/{name}/classify",
        "http.response.status_code": 200,
    }
    # The engine is deterministic: each image is alone in its batch.
    assert sorted(span.name for span in others) == sorted(("read", *STAGES[1:] * 2))
    for span in others:
        assert span.parent is not None
        assert (span.context.trace_id, span.parent.span_id) == (TRACE, server.context.span_id)
        counted = "medfocus.images" if span.name in STAGES[:3] else "medfocus.batch_size"
        images = 3 if span.name == "read" else 1
        assert span.attributes == {**known, counted: images}
        # Two clocks, compared once per request: to the millisecond at least.
        assert server.start_time is not None
        assert server.start_time - 10**6 <= (span.start_time or 0) <= (span.end_time or 0)
        assert server.end_time is not None
        assert (span.end_time or 0) <= server.end_time + 10**6
    for one in (server, *others):
        assert "smith" not in one.to_json().lower()


def test_stages_of_several_batches() -> None:
    """By hand: two images read one after the other, one in each of two batches; one fails to be."""
    spans = [
        Span("read", "a", 1, 2, 0.5),
        Span("read", "b", 2, 4),
        Span("prepare", "c", 9, 10, 1, batch=7, queued=5),
        Span("segment", "s", 10, 12, 0, 8, batch=7),
        Span("prepare", "d", 12, 13, 0.5, batch=8, queued=2),
        Span("prepare", "d", 13, 14, 1.5, batch=8, queued=3),
    ]
    assert list(traces.stages_of(spans)) == [
        ("read", 1, 4, {"medfocus.images": 2}),
        ("queue", 3, 8, {"medfocus.images": 1}),
        ("prepare", 9, 10, {"medfocus.images": 1}),
        ("segment", 10, 12, {"medfocus.batch_size": 8}),
        ("queue", 8.5, 11.5, {"medfocus.images": 2}),
        ("prepare", 12, 14, {"medfocus.images": 2}),
    ]


@pytest.mark.parametrize(("name", "status"), [("none", 404), ("tiny", 400)])
def test_a_refused_request_has_its_code(
    serve: Serve, exporter: InMemorySpanExporter, name: str, status: int
) -> None:
    response = serve().post(f"/v1/engines/{name}/classify", json={"images": ["AAAA"], "boxes": []})
    assert response.status_code == status
    server, others = finished(exporter)
    assert server.attributes is not None
    assert server.attributes["error.type"] == response.json()["code"]
    assert server.status.status_code == trace.StatusCode.UNSET  # it is the client's
    assert not others


def test_an_unexpected_errors_text_is_in_no_span_and_no_metric(
    serve: Serve, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(request: Any) -> Any:
        raise ValueError("Smith^John")

    monkeypatch.setattr(engines, "service_of", fail)
    client = serve()
    assert client.get("/v1/engines").status_code == 500
    server, _ = finished(exporter)
    assert server.attributes is not None
    assert server.attributes["error.type"] == "serve.failed"
    assert server.status.status_code == trace.StatusCode.ERROR
    assert "Smith" not in server.to_json()
    line = 'medfocus_request_errors_total{code="serve.failed",route="/v1/engines"} 1.0'
    text = client.get("/metrics").text
    assert line in text
    assert "Smith" not in text


def test_without_opentelemetry_nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    found = importlib.util.find_spec(traces.__name__)
    assert found is not None
    assert found.loader is not None
    alone = importlib.util.module_from_spec(found)
    found.loader.exec_module(alone)
    with alone.server_span(HEADERS):
        assert alone.describe_work("tiny", "0", 1) is None
        alone.describe_errors(["image.damaged"])
        alone.describe_request("GET", "/", 200, "")


def test_nobody_who_records_costs_no_spans() -> None:
    """OpenTelemetry's interface is there, without an SDK."""

    async def request() -> None:
        with traces.server_span(HEADERS):
            assert traces.describe_work("tiny", "0", 1) is None

    asyncio.run(request())


def test_an_observer_that_raises_does_not_fail_the_request(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("Smith^John")

    monkeypatch.setattr(traces, "describe_work", lambda *_: fail)
    client = serve()
    with caplog.at_level(logging.ERROR):
        response = client.post(ADDRESS, files=[("files", ("a.png", png(1)))])
    assert response.status_code == 200
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "Smith" not in caplog.text
