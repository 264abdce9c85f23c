"""Bodies and whole requests that are damaged at random: refused, never an error of the service."""

import base64
import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from tests.engine.io.mutation import damaged
from tests.serving.api.test_classify import ADDRESS, png
from tests.serving.dicomweb.test_store import RELATED, multipart
from tests.serving.process import ServiceProcess, status_of

COUNTS = [300, pytest.param(10_000, marks=pytest.mark.long)]
DICOM = Path(str(get_testdata_file("CT_small.dcm"))).read_bytes()
OPTIONS = {"boxes": [[1, 2, 30, 40]], "points": [[[5, 6, 1]]], "mask": "rle", "embedding": True}
PART = b'--B\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
FORM = (
    PART % (b"files", b'; filename="a.png"', png(1))
    + PART % (b"options", b"", json.dumps(OPTIONS).encode())
    + b"--B--\r\n"
)
BODY = json.dumps({"images": [base64.b64encode(png(1)).decode()], **OPTIONS}).encode()
# Address, content type and a body that is answered with 200.
REQUESTS = (
    (ADDRESS, "multipart/form-data; boundary=B", FORM),
    (ADDRESS, "application/json", BODY),
    (f"{ADDRESS}?mask=png&embedding=true", "image/png", png(1)),
    (ADDRESS, "application/dicom", DICOM),
    ("/dicom-web/studies", RELATED, multipart(DICOM)),
    ("/dicom-web/studies", "application/dicom", DICOM),
)
HEAD = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n"


def test_the_originals_are_answered(service: ServiceProcess) -> None:
    for address, kind, body in REQUESTS:
        response = service.client.post(address, content=body, headers={"content-type": kind})
        assert response.status_code == 200, (address, kind, response.text)


@pytest.mark.parametrize("count", COUNTS)
def test_damaged_bodies(service: ServiceProcess, count: int) -> None:
    draw, found = random.Random(24), Counter[int]()
    for _ in range(count):
        address, kind, body = draw.choice(REQUESTS)
        bad = damaged(body, draw)
        if draw.random() < 0.1:
            kind = draw.choice(REQUESTS)[1]
        response = service.client.post(address, content=bad, headers={"content-type": kind})
        found[response.status_code] += 1
        assert response.status_code < 500, (kind, bad)
        if response.status_code >= 400 and response.status_code != 409:  # DICOM's own answer
            problem = response.json()
            assert response.headers["content-type"] == "application/problem+json"
            assert problem["status"] == response.status_code
            assert problem["code"].startswith("serve.")
    assert {200, 400, 409, 415} <= set(found), found


@pytest.mark.parametrize("count", COUNTS)
def test_damaged_requests(service: ServiceProcess, count: int) -> None:
    """Bytes of the head are changed too, so that lengths, addresses and methods are wrong."""
    draw = random.Random(42)
    whole = [
        HEAD.format(address, kind, len(body)).encode() + body
        for address, kind, body in REQUESTS[:3]
    ]

    def bad() -> bytes:
        request = draw.choice(whole)
        cut = request.index(b"\r\n\r\n") + 4
        return damaged(request[:cut], draw) + request[cut:]

    requests = [bad() for _ in range(count)]
    with ThreadPoolExecutor(64) as pool:  # those that are too short wait for `idle_seconds`
        statuses = list(pool.map(partial(status_of, service.address), requests))
    for request, status in zip(requests, statuses, strict=True):
        assert status is None or status < 500, request
    assert {200, 400, 404, None} <= set(statuses), Counter(statuses)
