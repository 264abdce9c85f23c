"""What calls over gRPC meet besides answers: errors, limits, deadlines, the log, TLS."""

import json
import logging
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from medfocus.engine import Engine
from medfocus.errors import InputError
from medfocus.serving.command import service
from medfocus.serving.config import checked
from medfocus.serving.open_inference.grpc_server import grpc_server
from tests.errors import refuses
from tests.serving.api.test_classify import plain, png
from tests.serving.open_inference.conftest import Held, Running, ServeBoth
from tests.waiting import wait_until

Code = grpc.StatusCode
ROUTE = "inference.GRPCInferenceService/ModelInfer"


def stub_of(running: Running) -> Any:
    return service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(running.grpc))


def request(*files: bytes) -> Any:
    made = service_pb2.ModelInferRequest(model_name="tiny")
    tensor = made.inputs.add(name="images", datatype="BYTES", shape=[len(files)])
    tensor.contents.bytes_contents.extend(files)
    return made


def test_tensors_may_be_in_typed_contents(serve_both: ServeBoth, engine: Engine) -> None:
    stub = stub_of(serve_both())
    expected = engine.classify([png(1), b"none"])
    answer = stub.ModelInfer(request(png(1), b"none"))
    contents = {each.name: each.contents for each in answer.outputs}
    assert not answer.raw_output_contents
    assert [json.loads(each) for each in contents["prediction"].bytes_contents] == plain(expected)
    assert list(contents["focused"].bool_contents) == [each.focused for each in expected]
    rows = np.reshape(contents["probabilities"].fp32_contents, (2, 3))
    np.testing.assert_array_equal(
        rows, np.array([list(expected[0].probabilities.values()), [np.nan] * 3], np.float32)
    )
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 9), dtype=np.uint8)
    made = service_pb2.ModelInferRequest(model_name="tiny")
    tensor = made.inputs.add(name="images", datatype="UINT8", shape=pixels.shape)
    tensor.contents.uint_contents.extend(pixels.ravel().tolist())
    (output,) = (e for e in stub.ModelInfer(made).outputs if e.name == "prediction")
    assert json.loads(output.contents.bytes_contents[0]) == plain(engine.classify([*pixels]))[0]


def test_malformed_messages_are_refused(serve_both: ServeBoth) -> None:
    running = serve_both(limits={"body_bytes": 10_000})
    channel = grpc.insecure_channel(running.grpc)
    infer = channel.unary_unary(f"/{ROUTE}")  # bytes, as they are
    both = request(b"a")
    both.raw_input_contents.append(b"\1\0\0\0a")
    short = request(b"a")
    short.inputs[0].ClearField("contents")
    short.raw_input_contents.append(b"\2\0\0\0a")
    long = service_pb2.ModelInferRequest()
    long.CopyFrom(short)
    long.raw_input_contents[0] = b"\1\0\0\0ab"
    large = service_pb2.ModelInferRequest(model_name="tiny")
    pixel = large.inputs.add(name="images", datatype="UINT8", shape=[1, 1, 1])
    pixel.contents.uint_contents.append(256)
    for content in (
        b"\xff" * 9,
        *(each.SerializeToString() for each in (both, short, long, large)),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            infer(content)
        assert caught.value.code() == Code.INVALID_ARGUMENT
        assert dict(caught.value.trailing_metadata())["code"] == "serve.request"
    with pytest.raises(grpc.RpcError) as caught:
        infer(request(b"a" * 10_000).SerializeToString())
    assert caught.value.code() == Code.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(f"/{ROUTE}")(iter([]))
    assert caught.value.code() == Code.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/inference.GRPCInferenceService/None")(b"")
    assert caught.value.code() == Code.UNIMPLEMENTED
    assert infer(request(b"a").SerializeToString())


def test_a_client_that_cancels_cancels_its_work(serve_both: ServeBoth, held: Held) -> None:
    call = stub_of(serve_both()).ModelInfer.future(request(b"a"))
    assert held.began.wait(60)
    call.cancel()
    wait_until(held.future.cancelled)


def test_a_deadline_cancels_the_work(serve_both: ServeBoth, held: Held) -> None:
    running = serve_both()
    with pytest.raises(grpc.RpcError) as caught:
        stub_of(running).ModelInfer(request(b"a"), timeout=1)
    assert caught.value.code() == Code.DEADLINE_EXCEEDED
    wait_until(held.future.cancelled)


def test_a_full_queue_says_when_to_try_again(serve_both: ServeBoth, held: Held) -> None:
    running = serve_both(limits={"queue": 1})
    stub = stub_of(running)
    waiting = stub.ModelInfer.future(request(b"a"))
    assert held.began.wait(60)
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request(b"a"))
    assert caught.value.code() == Code.RESOURCE_EXHAUSTED
    trailing = dict(caught.value.trailing_metadata())
    assert trailing["code"] == "serve.busy"
    assert int(trailing["retry-after"]) > 0
    held.future.set_result([])
    assert waiting.result().model_name == "tiny"


def test_an_unexpected_error_tells_nothing(
    serve_both: ServeBoth, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise ValueError("smith")

    monkeypatch.setattr(Engine, "submit", failing)
    with pytest.raises(grpc.RpcError) as caught:
        stub_of(serve_both()).ModelInfer(request(b"a"))
    assert caught.value.code() == Code.INTERNAL
    assert dict(caught.value.trailing_metadata())["code"] == "serve.failed"
    assert "smith" not in str(caught.value)


def test_calls_are_logged_and_counted_as_requests_are(
    serve_both: ServeBoth, caplog: pytest.LogCaptureFixture
) -> None:
    running = serve_both()
    stub, trace = stub_of(running), "4bf92f3577b34da6a3ce929d0e0e4736"
    unknown = request(b"a")
    unknown.model_name = "smith" * 1000
    with caplog.at_level(logging.INFO, "medfocus.access"):
        metadata = (("traceparent", f"00-{trace}-00f067aa0ba902b7-01"),)
        stub.ModelInfer(request(png(1)), metadata=metadata)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(unknown)
        assert caught.value.code() == Code.NOT_FOUND
        wait_until(lambda: len(caplog.records) >= 2)
    first, second = (json.loads(record.message) for record in caplog.records)
    wanted = {"method": "gRPC", "route": ROUTE, "engine": "tiny", "status": 200, "trace": trace}
    assert {name: first[name] for name in wanted} == wanted
    assert first["received"] > len(png(1))
    assert (second["status"], "engine" in second) == (404, False)
    assert "smith" not in caplog.text
    registry, counted = running.service.metrics.registry, "medfocus_requests_total"
    for status in ("200", "404"):
        labels = {"route": ROUTE, "status": status}
        assert registry.get_sample_value(counted, labels) == 1


def test_the_standard_health_service(serve_both: ServeBoth) -> None:
    running = serve_both()
    stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(running.grpc))
    status = health_pb2.HealthCheckResponse

    def check(name: str) -> Any:
        return stub.Check(health_pb2.HealthCheckRequest(service=name)).status

    names = ("", "inference.GRPCInferenceService", "tiny")
    assert {check(name) for name in names} == {status.SERVING}
    running.service.engines.unload("tiny")
    assert {check(name) for name in names} == {status.NOT_SERVING}
    with pytest.raises(grpc.RpcError) as caught:
        check("other")
    assert caught.value.code() == Code.NOT_FOUND


def test_an_address_in_use_is_refused(serve_both: ServeBoth) -> None:
    import asyncio

    port = int(serve_both().grpc.rpartition(":")[2])
    made = service(checked({"engines": {}}, Path(), "test"))
    with refuses(InputError, "serve.address", str(port)):
        asyncio.run(grpc_server(made, port))
