"""What calls over gRPC may take together: messages in memory, calls, fields of a message."""

import asyncio
import threading
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from medfocus.serving.body_memory import SMALL
from medfocus.serving.errors import RequestError
from medfocus.serving.open_inference import grpc_reading, grpc_server
from medfocus.serving.open_inference.grpc_methods import METHODS, SERVICE
from medfocus.serving.open_inference.grpc_reading import (
    MOST_OPEN_BYTES,
    MOST_OPEN_RECEIVED,
    MOST_RECEIVED,
    Reader,
    parsed,
)
from medfocus.serving.open_inference.messages import CLASSES
from tests.errors import refuses
from tests.serving.api.test_classify import png
from tests.serving.open_inference.conftest import Held, ServeBoth
from tests.serving.open_inference.test_grpc import request, stub_of

Code = grpc.StatusCode
INFER = CLASSES["ModelInferRequest"]


def test_who_needs_no_token_sends_no_large_message(serve_both: ServeBoth) -> None:
    channel = grpc.insecure_channel(serve_both().grpc)
    large = CLASSES["ModelReadyRequest"](name="a" * MOST_OPEN_BYTES).SerializeToString()
    for path in (f"{SERVICE}/ModelReady", "grpc.health.v1.Health/Check"):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"/{path}")(large)
        assert caught.value.code() == Code.RESOURCE_EXHAUSTED
        assert dict(caught.value.trailing_metadata())["code"] == "serve.body_too_large"
    # Its message has no fields, and is not read at all.
    live = channel.stream_unary(f"/{SERVICE}/ServerLive")
    silent = threading.Event()
    try:
        assert live(iter(silent.wait, True), timeout=60)
    finally:
        silent.set()


def test_who_sends_no_message_does_not_keep_others_waiting(
    serve_both: ServeBoth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_reading, "MOST_OPEN_RECEIVED", 1)
    monkeypatch.setattr(grpc_reading, "OPEN_SECONDS", 0.2)
    channel, silent = grpc.insecure_channel(serve_both().grpc), threading.Event()
    ready = f"/{SERVICE}/ModelReady"
    try:
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary(ready)(iter(silent.wait, True), timeout=60)
        assert dict(caught.value.trailing_metadata())["code"] == "serve.deadline"
    finally:
        silent.set()
    monkeypatch.setattr(grpc_reading, "OPEN_SECONDS", 60)
    content = CLASSES["ModelReadyRequest"](name="tiny").SerializeToString()
    assert CLASSES["ModelReadyResponse"].FromString(channel.unary_unary(ready)(content)).ready


def test_calls_beyond_the_limit_are_refused(
    serve_both: ServeBoth, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_server, "MOST_CALLS", 1)
    stub = stub_of(serve_both())
    waiting = stub.ModelInfer.future(request(b"a"))
    assert held.began.wait(60)
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request(b"a"), timeout=30)
    assert caught.value.code() == Code.RESOURCE_EXHAUSTED
    held.future.set_result([])
    assert waiting.result().model_name == "tiny"


@pytest.mark.parametrize(
    ("call", "most"), [("ModelReady", MOST_OPEN_RECEIVED), ("ModelInfer", MOST_RECEIVED)]
)
def test_few_messages_are_received_at_once(call: str, most: int) -> None:
    found, under_way = [], 0
    limits = SimpleNamespace(seconds=60, images=8)
    service: Any = SimpleNamespace(config=SimpleNamespace(limits=limits))

    async def messages() -> AsyncIterator[bytes]:
        nonlocal under_way
        under_way += 1
        found.append(under_way)
        await asyncio.sleep(0)
        under_way -= 1
        yield b""

    async def read() -> None:
        reader = Reader(service)
        calls = (
            reader.message(METHODS[f"{SERVICE}/{call}"], messages(), lambda _: None)
            for _ in range(5 * most)
        )
        await asyncio.gather(*calls)

    asyncio.run(read())
    assert (len(found), max(found)) == (5 * most, most)


@pytest.mark.parametrize("part", ["inputs", "outputs", "raw_input_contents", "elements", "names"])
def test_a_message_of_too_many_parts_is_not_parsed(part: str) -> None:
    message = INFER()
    if part == "elements":
        message.inputs.add().contents.bytes_contents.extend([b""] * 200)
    elif part == "names":
        for number in range(200):
            message.inputs.add().parameters[str(number)].bool_param = True
    elif part == "raw_input_contents":
        message.raw_input_contents.extend([b""] * 200)
    else:
        for _ in range(200):
            getattr(message, part).add()
    content = message.SerializeToString()

    def fail(_: bytes) -> None:
        raise AssertionError

    with refuses(RequestError, "serve.request", "message"):
        parsed(SimpleNamespace(FromString=fail), content, 100)
    assert parsed(INFER, content, 1000) == message


def test_large_messages_are_parsed_beside_the_event_loop(
    serve_both: ServeBoth, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def noted(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return parsed(*arguments)

    monkeypatch.setattr(grpc_reading, "parsed", noted)
    stub = stub_of(serve_both())
    for size in (0, SMALL):
        stub.ModelInfer(request(png(1) + bytes(size)))
    assert threads[0] is not threads[1]


def test_an_axis_that_numpy_cannot_hold_is_refused(serve_both: ServeBoth) -> None:
    stub = stub_of(serve_both())
    for shape in ([1, 0, 2**62, 3], [1, 0, 2**31, 2**31], [0, 2**31, 2**31, 3], [1, 0, 2**63 - 1]):
        for raw in (False, True):
            made = request()
            made.inputs[0].datatype, made.inputs[0].shape[:] = "UINT8", shape
            if raw:
                made.inputs[0].ClearField("contents")
                made.raw_input_contents.append(b"")
            with pytest.raises(grpc.RpcError) as caught:
                stub.ModelInfer(made)
            assert caught.value.code() == Code.INVALID_ARGUMENT
