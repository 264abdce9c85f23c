"""NVIDIA's clients, as they are: every answer is the engine's own, to the bit."""

import io
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file
from tritonclient.utils import InferenceServerException

from medfocus.engine import Engine, Prediction
from tests.serving.api.test_classify import plain, png
from tests.serving.open_inference.conftest import Running, ServeBoth
from tests.serving.test_config import OTHER, TOKEN, written

CLIENTS = pytest.mark.parametrize("module", [over_http, over_grpc], ids=["http", "grpc"])
NAN = float("nan")


def client_of(module: ModuleType, running: Running) -> Any:
    address = running.http if module is over_http else running.grpc
    return module.InferenceServerClient(address)


def tensor(module: ModuleType, name: str, datatype: str, values: Any, **options: Any) -> Any:
    kinds: dict[str, Any] = {"BYTES": np.object_, "UINT8": np.uint8, "FP32": np.float32}
    array: NDArray[Any] = np.asarray(values, kinds[datatype])
    found = module.InferInput(name, list(array.shape), datatype)
    found.set_data_from_numpy(array, **options)
    return found


def predictions(result: Any) -> list[dict[str, Any]]:
    return [json.loads(each) for each in result.as_numpy("prediction")]


def check(result: Any, expected: list[Prediction]) -> None:
    """All outputs that come unasked."""
    assert predictions(result) == plain(expected)
    assert [each.decode() for each in result.as_numpy("label")] == [e.label or "" for e in expected]
    names = next(list(each.probabilities) for each in expected if each.label)
    rows = [[each.probabilities.get(name, NAN) for name in names] for each in expected]
    np.testing.assert_array_equal(result.as_numpy("probabilities"), np.array(rows, np.float32))
    scores = [NAN if each.focus_score is None else each.focus_score for each in expected]
    np.testing.assert_array_equal(result.as_numpy("focus_score"), np.array(scores, np.float32))
    np.testing.assert_array_equal(result.as_numpy("focused"), [each.focused for each in expected])


@CLIENTS
def test_files_are_answered_as_the_engine_does(
    module: ModuleType, serve_both: ServeBoth, engine: Engine
) -> None:
    names = ("CT_small.dcm", "rtdose.dcm")  # one frame, fifteen
    files = [png(1), *(Path(str(get_testdata_file(name))).read_bytes() for name in names), b"none"]
    client = client_of(module, serve_both())
    result = client.infer(
        "tiny", [tensor(module, "images", "BYTES", files)], request_id="the client's"
    )
    check(result, engine.classify(files))
    answer = result.get_response()
    id_, version = (
        (answer["id"], answer["model_version"])
        if isinstance(answer, dict)
        else (answer.id, answer.model_version)
    )
    assert id_ == "the client's"
    again = client.infer(
        "tiny",
        [tensor(module, "images", "BYTES", files[:1])],
        model_version=version,
        outputs=[module.InferRequestedOutput("prediction")],
    )
    assert predictions(again) == plain(engine.classify(files[:1]))
    assert again.as_numpy("label") is None  # only what was asked for


@CLIENTS
@pytest.mark.parametrize("shape", [(3, 40, 50), (2, 40, 50, 3)])
def test_pixels_prompts_masks_and_embeddings(
    module: ModuleType, shape: tuple[int, ...], serve_both: ServeBoth, engine: Engine
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    boxes = np.full((len(pixels), 4), NAN)
    boxes[0] = [5, 6, 30, 35]
    points = np.full((len(pixels), 2, 3), NAN)
    points[1] = [[20, 10, 1], [3, 30, 0]]
    points[0, 1] = [9, 8, 1]  # a row of NaN before it is none
    expected = engine.classify(
        list(pixels),
        boxes=[[5, 6, 30, 35], *[None] * (len(pixels) - 1)],
        points=[[[9, 8, 1]], [[20, 10, 1], [3, 30, 0]], None][: len(pixels)],
        embeddings=True,
    )
    running = serve_both()
    inputs = [
        tensor(module, "images", "UINT8", pixels),
        tensor(module, "boxes", "FP32", boxes),
        tensor(module, "points", "FP32", points),
    ]
    names = ("mask", "embedding", "prediction")
    result = client_of(module, running).infer(
        "tiny", inputs, outputs=[module.InferRequestedOutput(name) for name in names]
    )
    assert predictions(result) == plain(expected)
    np.testing.assert_array_equal(result.as_numpy("embedding"), [e.embedding for e in expected])
    for content, prediction in zip(result.as_numpy("mask"), expected, strict=True):
        check_mask(content, prediction)


def check_mask(content: bytes, prediction: Prediction) -> None:
    found = np.array(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(found, prediction.focus_mask)


@CLIENTS
def test_health_metadata_and_repository(module: ModuleType, serve_both: ServeBoth) -> None:
    client = client_of(module, serve_both())
    assert client.is_server_live()
    assert client.is_server_ready()
    as_json = {} if module is over_http else {"as_json": True}
    server = client.get_server_metadata(**as_json)
    assert {"binary_tensor_data", "model_repository"} <= set(server["extensions"])
    model = client.get_model_metadata("tiny", **as_json)
    (version,) = model["versions"]
    shapes = {each["name"]: [int(n) for n in each["shape"]] for each in model["outputs"]}
    assert shapes["probabilities"] == [-1, 3]
    assert {each["name"] for each in model["inputs"]} == {"images", "boxes", "points"}
    assert client.is_model_ready("tiny", version)
    assert not client.is_model_ready("tiny", "another")
    assert not client.is_model_ready("other")

    def index() -> Any:
        found = client.get_model_repository_index(**as_json)
        return found if module is over_http else found["models"]

    assert [(e["name"], e["version"], e["state"]) for e in index()] == [("tiny", version, "READY")]
    client.unload_model("tiny")
    assert [(each["name"], each["state"]) for each in index()] == [("tiny", "UNAVAILABLE")]
    assert not client.is_server_ready()
    client.load_model("tiny")
    assert client.is_model_ready("tiny")


@CLIENTS
def test_what_is_refused_has_the_protocols_status(
    module: ModuleType, serve_both: ServeBoth
) -> None:
    client = client_of(module, serve_both(limits={"images": 4}))
    one = [tensor(module, "images", "BYTES", [b"none"])]
    invalid = ("400", "StatusCode.INVALID_ARGUMENT")
    missing = ("404", "StatusCode.NOT_FOUND")
    output = module.InferRequestedOutput
    cases: list[tuple[tuple[str, str], Any]] = [
        (missing, lambda: client.infer("other", one)),
        (missing, lambda: client.infer("tiny", one, model_version="another")),
        (missing, lambda: client.get_model_metadata("other")),
        (missing, lambda: client.unload_model("other")),
        (missing, lambda: client.load_model("other")),
        (invalid, lambda: client.load_model("tiny", config='{"path": "/"}')),
        (invalid, lambda: client.infer("tiny", one, outputs=[output("none")])),
        (invalid, lambda: client.infer("tiny", one, outputs=[output("label")] * 2)),
        (invalid, lambda: client.infer("tiny", one, outputs=[output("label", class_count=2)])),
        (invalid, lambda: client.infer("tiny", one * 2)),
        (invalid, lambda: client.infer("tiny", [tensor(module, "boxes", "FP32", [[1] * 4])])),
        (invalid, lambda: client.infer("tiny", [tensor(module, "x", "BYTES", [b""])])),
        (invalid, lambda: client.infer("tiny", [tensor(module, "images", "FP32", [[[1]]])])),
        (invalid, lambda: client.infer("tiny", [tensor(module, "images", "BYTES", [[b""]])])),
        (invalid, lambda: client.infer("tiny", [tensor(module, "images", "BYTES", [b"a"] * 5)])),
        (
            invalid,
            lambda: client.infer("tiny", [*one, tensor(module, "boxes", "FP32", [[1] * 4] * 2)]),
        ),
    ]
    for wanted, call in cases:
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.status() in wanted
    assert len(predictions(client.infer("tiny", one))) == 1


@CLIENTS
def test_a_timeout_in_microseconds_ends_the_work(module: ModuleType, serve_both: ServeBoth) -> None:
    client = client_of(module, serve_both())
    with pytest.raises(InferenceServerException) as caught:
        client.infer("tiny", [tensor(module, "images", "BYTES", [png(1)])], timeout=1)
    assert caught.value.status() in ("504", "StatusCode.DEADLINE_EXCEEDED")


@CLIENTS
def test_each_method_wants_its_role(
    module: ModuleType, serve_both: ServeBoth, tmp_path: Path
) -> None:
    file = written(tmp_path, f"classify {TOKEN}\nadminister {OTHER}\n", "tokens")
    client = client_of(module, serve_both(security={"token_file": str(file)}))
    one = [tensor(module, "images", "BYTES", [b"none"])]
    calls: list[tuple[Any, str | None]] = [
        (client.is_server_live, None),
        (client.is_server_ready, None),
        (client.get_server_metadata, None),
        (lambda headers: client.is_model_ready("tiny", headers=headers), None),
        (lambda headers: client.get_model_metadata("tiny", headers=headers), "classify"),
        (lambda headers: client.infer("tiny", one, headers=headers), "classify"),
        (client.get_model_repository_index, "classify"),
        (lambda headers: client.load_model("tiny", headers=headers), "administer"),
        (lambda headers: client.unload_model("tiny", headers=headers), "administer"),
    ]
    for token, allowed in (("", {None}), (TOKEN, {None, "classify"}), (OTHER, None)):
        headers = {"authorization": f"Bearer {token}"} if token else {}
        for call, role in calls:
            if allowed is None or role in allowed:
                call(headers=headers)
                continue
            with pytest.raises(InferenceServerException) as caught:
                call(headers=headers)
            wanted = (
                ("403", "StatusCode.PERMISSION_DENIED")
                if token
                else ("401", "StatusCode.UNAUTHENTICATED")
            )
            assert caught.value.status() in wanted
