"""Answers over HTTP are the engine's own, in every form of request."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from medfocus.engine import Engine, Prediction
from tests.serving.answers.test_masks import decoded
from tests.serving.conftest import Serve

ADDRESS = "/v1/engines/tiny/classify"


def png(seed: int, height: int = 60, width: int = 90) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def files() -> list[bytes]:
    """A picture, DICOM of one frame and of several, and what is no image."""
    dicom = [Path(str(get_testdata_file(name))) for name in ("CT_small.dcm", "rtdose.dcm")]
    return [png(1), *(path.read_bytes() for path in dicom), b"no image"]


def plain(predictions: list[Prediction]) -> list[dict[str, Any]]:
    """What `Engine.classify` returned, through JSON."""
    found = []
    for each in predictions:
        error = each.error and {
            name: getattr(each.error, name) for name in ("code", "item", "problem", "hint")
        }
        found.append(each.to_dict() | {"error": error, "image_size": each.image_size})
    through: list[dict[str, Any]] = json.loads(json.dumps(found))
    return through


def answers(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["predictions"]
    return found


def test_forms_of_a_request_have_the_engines_answers(
    serve: Serve, engine: Engine, files: list[bytes]
) -> None:
    client = serve()
    expected = plain(engine.classify(files))
    assert [each["error"] is None for each in expected][-1] is False
    form = [("files", (f"patient-{number}", data)) for number, data in enumerate(files)]
    assert answers(client.post(ADDRESS, files=form)) == expected
    images = [base64.b64encode(data).decode() for data in files]
    assert answers(client.post(ADDRESS, json={"images": images})) == expected
    for data in files:
        headers = {"content-type": "application/octet-stream"}
        one = answers(client.post(ADDRESS, content=data, headers=headers))
        assert one == plain(engine.classify([data]))


def test_prompts_masks_and_embeddings(serve: Serve, engine: Engine, files: list[bytes]) -> None:
    client, images = serve(), [png(1), png(2)]
    boxes, points = [[10, 20, 50, 55], None], [None, [[30, 20], [60, 40, 0]]]
    expected = engine.classify(images, boxes=boxes, points=points, embeddings=True)
    options = {"boxes": boxes, "points": points, "embedding": True}
    encoded = [base64.b64encode(data).decode() for data in images]
    for mask in ("png", "rle", "polygon"):
        found = answers(client.post(ADDRESS, json={"images": encoded, "mask": mask, **options}))
        form = [("files", ("a", data)) for data in images]
        text = json.dumps(options | {"mask": mask})
        assert answers(client.post(ADDRESS, files=form, data={"options": text})) == found
        for one, prediction in zip(found, expected, strict=True):
            assert prediction.embedding is not None
            np.testing.assert_array_equal(np.float32(one["embedding"]), prediction.embedding)
            np.testing.assert_array_equal(decoded(one["mask"]), prediction.focus_mask)


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"json": {"images": []}}, 400, "serve.request"),
        ({"json": {"images": ["%%%"]}}, 400, "serve.request"),
        ({"json": {"images": ["AAAA"], "wanted": 1}}, 400, "serve.request"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "serve.request"),
        ({"content": b"a", "headers": {"content-type": "text/plain"}}, 415, "serve.media_type"),
        ({"files": [("a", b"1")] * 9}, 400, "serve.request"),
        ({"data": {"options": "{}"}}, 415, "serve.media_type"),
        ({"json": {"images": ["AAAA"], "boxes": [None] * 2}}, 400, "input.count_mismatch"),
        ({"content": b"a" * 3000}, 413, "serve.body_too_large"),
        ({"content": iter([b"a" * 1500] * 2)}, 413, "serve.body_too_large"),
        ({"json": {"images": ["AAAA"]}, "headers": {"x-request-timeout": "-1"}}, 400,
         "serve.request"),
        ({"json": {"images": ["AAAA"]}, "headers": {"x-request-timeout": "1e-9"}}, 504,
         "serve.deadline"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_has_a_status_and_a_code(
    serve: Serve, request_: dict[str, Any], status: int, code: str
) -> None:
    client = serve(limits={"images": 8, "body_bytes": 2000})
    headers = {"content-type": "application/octet-stream"} if "content" in request_ else {}
    request_["headers"] = headers | request_.get("headers", {})
    response = client.post(ADDRESS, **request_)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"
    assert answers(client.post(ADDRESS, json={"images": ["AAAA"]}))[0]["error"] is not None


def test_unknown_addresses_engines_and_methods(serve: Serve) -> None:
    client = serve()
    for method, address, status, code in (
        ("GET", "/", 404, "serve.not_found"),
        ("GET", ADDRESS, 405, "serve.method"),
        ("POST", "/v1/engines/other/classify", 404, "serve.unknown_engine"),
    ):
        response = client.request(method, address, json={"images": ["AAAA"]})
        assert (response.status_code, response.json()["code"]) == (status, code)


def test_files_of_too_many_frames_have_an_error_and_the_others_an_answer(
    serve: Serve, engine: Engine, files: list[bytes]
) -> None:
    client = serve(limits={"frames": 14})  # rtdose.dcm has 15
    images = [base64.b64encode(data).decode() for data in files[:3]]
    first, second, third = answers(client.post(ADDRESS, json={"images": images}))
    assert [first, second] == plain(engine.classify(files[:2]))
    assert third["error"]["code"] == "image.too_many_frames"


def test_prompts_and_json_have_limits(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client, image = serve(), base64.b64encode(png(1)).decode()
    points = [[1, 1]] * 1025
    for given in (points, {"0": points}):
        response = client.post(ADDRESS, json={"images": [image], "points": [given]})
        assert (response.status_code, response.json()["code"]) == (400, "serve.request")
    monkeypatch.setattr("medfocus.serving.api.uploads.MOST_JSON_BYTES", 10_000)
    response = client.post(ADDRESS, json={"images": [image], "points": [points]})
    assert (response.status_code, response.json()["code"]) == (413, "serve.body_too_large")
    assert answers(client.post(ADDRESS, files=[("files", ("a", png(1)))]))[0]["error"] is None
