"""Bodies over HTTP: JSON and binary tensors in any mixture, and whatever else may come."""

import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medfocus.engine import Engine
from medfocus.errors import MedfocusError
from medfocus.serving.errors import RequestError
from medfocus.serving.open_inference.grpc_tensors import request_of
from medfocus.serving.open_inference.http_body import HEADER, parsed
from medfocus.serving.open_inference.messages import CLASSES
from medfocus.serving.problems import status_of
from tests.errors import refuses
from tests.serving.api.test_classify import plain, png
from tests.serving.conftest import Serve

INFER = "/v2/models/tiny/infer"


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def images(*data: Any, **more: Any) -> dict[str, Any]:
    return {"name": "images", "datatype": "BYTES", "shape": [len(data)], "data": data} | more


def values(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return {each["name"]: each["data"] for each in response.json()["outputs"]}


def test_json_has_the_engines_answers(serve: Serve, engine: Engine) -> None:
    client, files = serve(), [png(1), b"none"]
    box = {"name": "boxes", "datatype": "FP32", "shape": [2, 4]}
    nested = box | {"data": [[5, 6, 30, 35.5], [None] * 4]}
    flat = box | {"data": [5, 6, 30, 35.5, *[None] * 4]}
    expected = engine.classify(files, boxes=[[5, 6, 30, 35.5], None])
    inputs = images(*map(in_base64, files))
    for boxes in (nested, flat):
        found = values(client.post(INFER, json={"inputs": [inputs, boxes]}))
        assert [json.loads(each) for each in found["prediction"]] == plain(expected)
        assert found["label"] == [expected[0].label, ""]
        assert found["probabilities"] == [*expected[0].probabilities.values(), *[None] * 3]
        assert found["focus_score"] == [expected[0].focus_score, None]
        assert "mask" not in found
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 9), dtype=np.uint8)
    tensor = {"name": "images", "datatype": "UINT8", "shape": pixels.shape}
    for data in (pixels.tolist(), pixels.ravel().tolist()):
        found = values(client.post(INFER, json={"inputs": [tensor | {"data": data}]}))
        expected = engine.classify([*pixels])
        assert [json.loads(each) for each in found["prediction"]] == plain(expected)


def test_each_output_is_binary_or_not_as_it_is_asked_for(serve: Serve) -> None:
    client = serve()
    outputs: list[dict[str, Any]] = [
        {"name": "label"},
        {"name": "probabilities", "parameters": {"binary_data": True}},
        {"name": "focused", "parameters": {"binary_data": False}},
    ]
    for everything, binary in ((False, {"probabilities"}), (True, {"label", "probabilities"})):
        body = {
            "inputs": [images(in_base64(png(1)))],
            "outputs": outputs,
            "parameters": {"binary_data_output": everything},
        }
        response = client.post(INFER, json=body)
        size = int(response.headers[HEADER])
        found = json.loads(response.content[:size])["outputs"]
        assert [each["name"] for each in found] == [each["name"] for each in outputs]
        sizes = {e["name"]: e["parameters"]["binary_data_size"] for e in found if "data" not in e}
        assert sizes.keys() == binary
        assert sum(sizes.values()) == len(response.content) - size
        (label,) = values(
            client.post(INFER, json=body | {"parameters": {}, "outputs": [{"name": "label"}]})
        )["label"]
        raw = len(label).to_bytes(4, "little") + label.encode()
        assert (raw in response.content[size:]) is everything


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"{", {}),
        (b"[" * 100_000, {}),
        (b'{"inputs": []}', {}),
        (b'{"inputs": []}', {HEADER: "99"}),
        (b'{"inputs": []}', {HEADER: "-1"}),
        (b'{"inputs": []}', {HEADER: "1" * 5000}),
        (images(1), {}),
        (images("%"), {}),
        (images("é"), {}),
        (images("AAAA", shape=[2]), {}),
        (images("AAAA", shape=[2**40]), {}),
        (images("AAAA", shape=[-1]), {}),
        (images("AAAA", shape=[]), {}),
        (images("AAAA", datatype="INT64"), {}),
        (images("AAAA", data=None), {}),
        (images("AAAA", parameters={"binary_data_size": 4}), {}),
        (images("AAAA", parameters={"shared_memory_region": "a"}), {}),
        (images(300, datatype="UINT8", shape=[1, 1, 1]), {}),
        (images(-1, datatype="UINT8", shape=[1, 1, 1]), {}),
        (images(1.5, datatype="UINT8", shape=[1, 1, 1]), {}),
        (images("1", datatype="UINT8", shape=[1, 1, 1]), {}),
        (images([1], [1, 2], datatype="UINT8", shape=[1, 1, 3]), {}),
        (images([1, 2], datatype="UINT8", shape=[1, 2, 1]), {}),
        (images(10**400, datatype="UINT8", shape=[1, 1, 1]), {}),
        (images(None, datatype="UINT8", shape=[1, 1, 1]), {}),
        (images({}, datatype="UINT8", shape=[1, 1, 1]), {}),
        (json.dumps({"inputs": [images("AAAA")], "parameters": {"timeout": 10**400}}).encode(), {}),
    ],
)
def test_what_is_malformed_is_refused(
    body: bytes | dict[str, Any], headers: dict[str, str]
) -> None:
    content = body if isinstance(body, bytes) else json.dumps({"inputs": [body]}).encode()
    with refuses(RequestError, "serve.request"):
        parsed(content, headers.get(HEADER), 8)


def test_errors_have_the_protocols_form_wherever_they_come_from(serve: Serve) -> None:
    client = serve(limits={"body_bytes": 3000})
    one = {"inputs": [images("AAAA")]}
    for status, code, options in (
        (400, "serve.request", {"content": b"{"}),
        (400, "serve.request", {"json": {"inputs": [images()]}}),
        (400, "serve.request", {"json": one, "headers": {"x-request-timeout": "-1"}}),
        (403, "serve.origin", {"json": one, "headers": {"origin": "https://elsewhere.example"}}),
        (413, "serve.body_too_large", {"content": b" " * 4000}),
        (415, "serve.media_type", {"json": one, "headers": {"content-encoding": "gzip"}}),
        (504, "serve.deadline", {"json": one, "headers": {"x-request-timeout": "1e-9"}}),
    ):
        response = client.post(INFER, **options)
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert response.json().keys() == {"error", "code"}
        assert response.headers["content-type"] == "application/json"
    for method, path, status in (("GET", "/v2/none", 404), ("GET", INFER, 405)):
        response = client.request(method, path)
        assert (response.status_code, type(response.json()["error"])) == (status, str)
    assert values(client.post(INFER, json=one))["label"] == [""]


SHAPES = st.lists(st.integers(-1, 3) | st.integers(), max_size=4)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.binary(max_size=6).map(in_base64),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["images", "boxes", "points"]),
        "datatype": st.sampled_from(["BYTES", "UINT8", "FP32", "BOOL"]),
        "shape": SHAPES,
    },
    optional={
        "data": st.lists(DATA, max_size=4),
        "parameters": st.dictionaries(
            st.just("binary_data_size"), st.integers(-1, 40) | st.integers() | st.booleans()
        ),
    },
)
BODIES = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, max_size=3)},
    optional={"id": st.text(), "parameters": st.dictionaries(st.just("timeout"), DATA)},
)


def answers_or_refuses(call: Any) -> None:
    """No other exception: that would be a 500."""
    try:
        found = call()
    except MedfocusError as refusal:
        status = status_of(refusal)
    else:
        assert all(isinstance(each, bytes | memoryview | np.ndarray) for each in found.images)
        return
    assert 400 <= status < 500


@settings(max_examples=400, deadline=None)
@given(BODIES, st.binary(max_size=40), st.none() | st.integers(-2, 20).map(str) | st.text())
def test_any_body_is_read_or_refused(body: Any, raw: bytes, size: str | None) -> None:
    text = json.dumps(body).encode()
    answers_or_refuses(lambda: parsed(text + raw, str(len(text)), 8)[1])
    answers_or_refuses(lambda: parsed(text + raw, size, 8)[1])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.none() | st.integers(0, 200).map(str))
def test_any_bytes_are_read_or_refused(content: bytes, size: str | None) -> None:
    answers_or_refuses(lambda: parsed(content, size, 8)[1])


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["images", "boxes", "points"]),
            st.sampled_from(["BYTES", "UINT8", "FP32"]),
            st.lists(st.integers(-1, 3) | st.integers(-(2**63), 2**63 - 1), max_size=4),
            st.lists(st.integers(0, 2**32 - 1), max_size=4),
            st.lists(st.floats(width=32), max_size=4),
        ),
        max_size=3,
    ),
    st.lists(st.binary(max_size=40), max_size=3),
)
def test_any_message_is_read_or_refused(tensors: list[Any], raw: list[bytes]) -> None:
    message = CLASSES["ModelInferRequest"](raw_input_contents=raw)
    for name, datatype, shape, whole, floating in tensors:
        added = message.inputs.add(name=name, datatype=datatype, shape=shape)
        if not raw:
            added.contents.uint_contents.extend(whole)
            added.contents.fp32_contents.extend(floating)
            added.contents.bytes_contents.extend(raw)
    answers_or_refuses(lambda: request_of(message, 8))
