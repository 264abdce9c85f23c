"""STOW-RS: what a client of DICOMweb sends is answered as the engine answers, by the standard."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
import requests
from dicomweb_client import DICOMwebClient
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from medfocus.engine import Engine, Prediction
from medfocus.errors import DeviceError, ImageError, MedfocusError, OutputError
from medfocus.serving.dicomweb.instances import Instance
from medfocus.serving.dicomweb.report import Outcome, report
from tests.serving.api.test_classify import plain, png
from tests.serving.conftest import Serve
from tests.serving.test_config import TOKEN, written

# One frame and several; uncompressed, RLE, JPEG 2000, deflated; grey and colour.
NAMES = ("CT_small", "MR_small_RLE", "rtdose", "JPEG2000", "image_dfl", "SC_rgb_rle_2frame")
Answer = tuple[int, list[int], list[int], list[int]]
RELATED = 'multipart/related; type="application/dicom"; boundary=B'


def dataset(name: str) -> Dataset:
    return pydicom.dcmread(str(get_testdata_file(f"{name}.dcm")))


def encoded(given: Dataset) -> bytes:
    content = io.BytesIO()
    given.save_as(content)
    return content.getvalue()


def multipart(*parts: bytes, header: bytes = b"Content-Type: application/dicom\r\n") -> bytes:
    return b"".join(b"--B\r\n" + header + b"\r\n" + part + b"\r\n" for part in parts) + b"--B--\r\n"


def stow(client: httpx.Client, **headers: str) -> DICOMwebClient:
    return DICOMwebClient(f"{client.base_url}/dicom-web", headers=headers or None)


def post(client: httpx.Client, content: bytes, study: str = "", **headers: str) -> httpx.Response:
    address = f"/dicom-web/studies{study and '/'}{study}"
    return client.post(address, content=content, headers={"content-type": RELATED} | headers)


def predictions(item: Dataset) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(item.private_block(0x0099, "MEDFOCUS")[1].value)
    return found


def outcome(response: httpx.Response) -> Answer:
    """The status; instances that were stored, by warning; those that failed, and others."""
    assert response.headers["content-type"] == "application/dicom+json"
    check_dicom_json(response.json())
    module = Dataset.from_json(response.text)
    stored = [item.get("WarningReason", 0) for item in module.get("ReferencedSOPSequence", [])]
    failed, others = (
        [item.FailureReason for item in module.get(keyword, [])]
        for keyword in ("FailedSOPSequence", "OtherFailuresSequence")
    )
    return response.status_code, stored, failed, others


def check_dicom_json(given: dict[str, Any]) -> None:
    """PS3.18 F.2.2: names of eight hexadecimal digits in order, each with a VR and its values."""
    assert list(given) == sorted(given)
    for tag, element in given.items():
        assert tag == f"{int(tag, 16):08X}"
        assert {"vr"} <= set(element) <= {"vr", "Value"}
        values = element.get("Value", [None])
        assert values  # of an empty element there is none
        for value in values:
            if element["vr"] == "SQ":
                check_dicom_json(value)
            elif "Value" in element:
                assert type(value) is (int if element["vr"] == "US" else str)


def test_instances_are_answered_as_the_engine_answers(serve: Serve, engine: Engine) -> None:
    client = serve()
    sent = [dataset(name) for name in NAMES]
    module = stow(client).store_instances(sent)
    items = module.ReferencedSOPSequence
    assert [item.ReferencedSOPInstanceUID for item in items] == [d.SOPInstanceUID for d in sent]
    assert [item.ReferencedSOPClassUID for item in items] == [d.SOPClassUID for d in sent]
    assert "FailedSOPSequence" not in module
    assert "OtherFailuresSequence" not in module
    assert {item.RetrieveURL for item in (module, *items)} == {""}  # type 2: there, and empty
    files = [encoded(each) for each in sent]
    assert [each for item in items for each in predictions(item)] == plain(engine.classify(files))
    assert [len(predictions(item)) for item in items] == [1, 1, 15, 1, 1, 2]

    form = [("files", ("a", data)) for data in files]
    other = client.post("/v1/engines/tiny/classify", files=form)
    texts = [item.private_block(0x0099, "MEDFOCUS")[1].value[1:-1] for item in items]
    assert f'"predictions":[{",".join(texts)}]' in other.text  # to the byte
    assert json.loads(module.private_block(0x0099, "MEDFOCUS")[2].value) == other.json()["engine"]


def test_each_instance_that_is_not_answered_has_a_reason(serve: Serve, engine: Engine) -> None:
    client = serve()
    good, no_image = encoded(dataset("CT_small")), encoded(dataset("reportsi"))
    unknown = good.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0")  # no such syntax
    nameless = dataset("CT_small")
    del nameless.SOPInstanceUID
    dose = encoded(dataset("rtdose"))
    for part, expected in (
        (good, (200, [0], [], [])),
        (no_image, (409, [], [0x0122], [])),
        (unknown, (409, [], [0xC122], [])),
        (good[: len(good) // 2], (409, [], [0xC000], [])),  # no frame is whole
        (good[:6000], (409, [], [0xC000], [])),  # cut off before its pixels
        (dose[: -len(dose) // 3], (202, [0xB006], [], [])),  # some frames are whole
        (encoded(nameless), (409, [], [], [0xC000])),
        (png(1), (409, [], [], [0xC000])),
        (b"", (409, [], [], [0xC000])),
    ):
        assert outcome(post(client, multipart(part))) == expected
        status, stored, failed, others = outcome(post(client, multipart(good, part, good)))
        assert (stored, failed, others) == ([0, *expected[1], 0], *expected[2:])
        assert status == (200 if part is good else 202)
    module = Dataset.from_json(post(client, multipart(no_image)).text)
    (failure,) = module.FailedSOPSequence
    assert failure.ReferencedSOPInstanceUID == dataset("reportsi").SOPInstanceUID
    assert predictions(failure) == plain(engine.classify([no_image]))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImageError("a", "b", "c", code="image.too_large"), 0xA700),
        (ImageError("a", "b", "c", code="image.too_slow"), 0xA700),
        (ImageError("a", "b", "c", code="image.decoder_crashed"), 0xC000),
        (OutputError("a", "b", "c"), 0x0110),
        (DeviceError("a", "b", "c"), 0x0110),
    ],
)
def test_reasons_of_failures_that_are_hard_to_cause(error: MedfocusError, reason: int) -> None:
    failed = Prediction("a", None, {}, False, None, None, None, None, error=error)
    status, module = report([Outcome(Instance("1.2", "1.3", "1.4"), [failed])], None)
    assert (status, module.FailedSOPSequence[0].FailureReason) == (409, reason)
    check_dicom_json(json.loads(json.dumps(module.to_json_dict(), sort_keys=True)))


def test_too_many_frames_are_too_many(serve: Serve) -> None:
    client = serve(limits={"frames": 2})
    body = multipart(encoded(dataset("rtdose")), encoded(dataset("SC_rgb_rle_2frame")))
    assert outcome(post(client, body)) == (202, [0], [0xA700], [])


def test_instances_of_another_study_fail(serve: Serve) -> None:
    client = serve()
    first, second = dataset("CT_small"), dataset("MR_small_RLE")
    response = post(client, multipart(encoded(first), encoded(second)), first.StudyInstanceUID)
    assert outcome(response) == (202, [0], [0xA901], [])
    module = Dataset.from_json(response.text)
    assert module.FailedSOPSequence[0].ReferencedSOPInstanceUID == second.SOPInstanceUID
    response = post(client, multipart(encoded(first)), second.StudyInstanceUID)
    assert outcome(response) == (409, [], [0xA901], [])
    with pytest.raises(requests.HTTPError, match="409"):
        stow(client).store_instances([first], second.StudyInstanceUID)
    module = stow(client).store_instances([first], first.StudyInstanceUID)
    assert len(module.ReferencedSOPSequence) == 1


def test_bodies_that_the_standard_allows(serve: Serve) -> None:
    client, good = serve(), encoded(dataset("CT_small"))
    body = multipart(good, good)
    twice: Answer = (200, [0, 0], [], [])
    unnamed = multipart(good, good, header=b"Content-Length: 1\r\n")  # of no importance here
    quoted = (
        'Multipart/Related;boundary="a (B) c"; start="x; type=text/plain"; TYPE=application/dicom'
    )
    syntax = multipart(
        good, good, header=b"content-TYPE: application/dicom; transfer-syntax=1.2\r\n"
    )
    for content, headers in (
        (body, {}),
        (b"\r\nignored\r\n" + body + b"ignored", {}),
        (body.replace(b"--B", b"--a (B) c"), {"content-type": quoted}),
        (unnamed, {}),
        (syntax, {"accept": "text/html, Application/DICOM+json;q=0.5"}),
        (body, {"accept": "*/*"}),
    ):
        assert outcome(post(client, content, **headers)) == twice
    one = post(client, good, **{"content-type": "application/dicom; transfer-syntax=1.2"})
    assert outcome(one) == (200, [0], [], [])

    def in_bits() -> Iterator[bytes]:  # boundaries and headers are split at any place
        yield from (body[place : place + 7] for place in range(0, 700, 7))
        yield body[700:-100]
        yield from (body[place : place + 1] for place in range(len(body) - 100, len(body)))

    headers = {"content-type": RELATED}
    response = client.post("/dicom-web/studies", content=in_bits(), headers=headers)
    assert outcome(response) == twice
    assert response.json() == post(client, body).json()


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"", {}, 400, "serve.request"),
        (b"--B--\r\n", {}, 400, "serve.request"),
        (b"no boundary", {}, 400, "serve.request"),
        (multipart(b"a")[:-4], {}, 400, "serve.request"),
        (multipart(*[b"a"] * 9), {}, 400, "serve.request"),
        (b"--B\r\nSmith\0: a\r\n\r\n", {}, 400, "serve.request"),
        (multipart(b"a"), {"content-type": "multipart/related"}, 400, "serve.request"),
        (multipart(b"a"), {"content-type": RELATED.partition("; b")[0]}, 400, "serve.request"),
        (multipart(b"a"), {"content-type": f"{RELATED}{'B' * 300}"}, 400, "serve.request"),
        (multipart(b"a"), {"content-type": RELATED.replace("dicom", "dicom+json")}, 415,
         "serve.media_type"),
        (multipart(b"a", header=b"Content-Type: image/png\r\n"), {}, 415, "serve.media_type"),
        (multipart(b"a", header=b"Content-Location: a\r\nContent-Type: text/xml\r\n"), {}, 415,
         "serve.media_type"),
        (b"[]", {"content-type": "application/dicom+json"}, 415, "serve.media_type"),
        (b"a", {"content-type": ""}, 415, "serve.media_type"),
        (multipart(b"a"), {"accept": "application/dicom+xml"}, 406, "serve.not_acceptable"),
        (multipart(b"a"), {"x-request-timeout": "0"}, 400, "serve.request"),
        (multipart(b"a"), {"x-request-timeout": "1e-9"}, 504, "serve.deadline"),
        (multipart(b"a" * 3000), {}, 413, "serve.body_too_large"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_has_a_status_and_a_code(
    serve: Serve, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    client = serve(limits={"images": 8, "body_bytes": 2000})
    response = post(client, content, **headers)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert "Smith" not in response.text


def test_nothing_of_the_patient_is_said(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    client, sent = serve(), dataset("CT_small")
    with caplog.at_level(logging.DEBUG):
        response = post(client, multipart(encoded(sent)), sent.StudyInstanceUID)
    assert outcome(response)[0] == 200
    values = {str(e.value) for e in sent if e.VR in ("PN", "LO", "DA", "TM", "UI", "SH")}
    values = {value for value in values if len(value) > 5}
    assert str(sent.PatientName) in values
    wanted = {sent.SOPClassUID, sent.SOPInstanceUID}
    assert {value for value in values if f'"{value}"' in response.text} == wanted
    logged = [each.getMessage() for each in caplog.records if not each.name.startswith("http")]
    (access,) = (json.loads(line) for line in logged if "/dicom-web/" in line)
    assert (access["route"], access["engine"]) == ("/dicom-web/studies/{study}", "tiny")
    assert not [value for value in values if value in "".join(logged)]


def test_a_client_needs_a_token_where_there_are_any(serve: Serve, tmp_path: Path) -> None:
    file = written(tmp_path, f"classify {TOKEN}\n", "tokens")
    client = serve(security={"token_file": str(file)})
    sent = [dataset("CT_small")]
    with pytest.raises(requests.HTTPError, match="401"):
        stow(client).store_instances(sent)
    module = stow(client, Authorization=f"Bearer {TOKEN}").store_instances(sent)
    assert len(module.ReferencedSOPSequence) == 1


def test_of_several_engines_one_is_named(serve: Serve, engine_directory: Path) -> None:
    engines = {name: {"path": str(engine_directory)} for name in ("tiny", "other")}
    body = multipart(encoded(dataset("CT_small")))
    response = post(serve(engines=engines), body)
    assert (response.status_code, response.json()["code"]) == (404, "serve.dicomweb_engine")
    assert outcome(post(serve(engines=engines, dicomweb_engine="tiny"), body))[0] == 200
