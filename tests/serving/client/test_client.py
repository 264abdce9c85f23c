"""A client's predictions equal the engine's own, in every field and for every kind of source."""

import asyncio
import io
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.data import get_testdata_file

from medfocus.engine import Engine, Prediction
from medfocus.errors import FileError, InputError, MedfocusError
from medfocus.serving import AsyncClient, Client
from medfocus.serving.command import service
from medfocus.serving.config import checked
from medfocus.serving.engines import ServedEngine
from medfocus.serving.errors import BusyError, RequestError, ServiceError
from tests.errors import refuses
from tests.serving.api.test_classify import png
from tests.serving.conftest import Serve, running


@pytest.fixture
def client(serve: Serve) -> Iterator[Client]:
    with Client(str(serve().base_url)) as client:
        yield client


def assert_equal(found: list[Prediction], expected: list[Prediction]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for field in fields(Prediction):
            ours, theirs = getattr(one, field.name), getattr(other, field.name)
            if isinstance(theirs, np.ndarray):
                assert ours.dtype == theirs.dtype
                np.testing.assert_array_equal(ours, theirs)
            elif isinstance(theirs, MedfocusError):
                assert (type(ours), ours.code, str(ours)) == (
                    type(theirs),
                    theirs.code,
                    str(theirs),
                )
            else:
                assert ours == theirs
        assert list(one.probabilities) == list(other.probabilities)
        assert [each.code for each in one.warnings] == [each.code for each in other.warnings]


@pytest.fixture
def sources(tmp_path: Path) -> list[Any]:
    """Files of all kinds, good and bad, and images in memory."""
    deep = np.arange(60 * 90, dtype=np.uint16).reshape(60, 90)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    shown = [Image.open(io.BytesIO(png(seed))) for seed in range(3)]
    shown[0].save(tmp_path / "pages.tif", save_all=True, append_images=shown[1:])
    for name, data in {
        "text.png": b"no image, but named as one" * 9,
        "text": b"no image, and might be DICOM" * 9,
        "text.dcm": b"no image, but named as DICOM" * 9,
        "empty.jpg": b"",
        "pointer.dcm": b"version https://git-lfs.github.com/spec/v1\n",
        "cut.png": png(1)[:300],
    }.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.png").mkdir()
    dicom = [str(get_testdata_file(name)) for name in ("CT_small.dcm", "rtdose.dcm")]
    pixels = np.asarray(shown[0])
    return [
        *dicom,
        *sorted(tmp_path.iterdir()),
        tmp_path / "absent.png",
        png(4),
        io.BytesIO(png(5)),
        pydicom.dcmread(dicom[0]),
        pixels,
        pixels[..., 0].astype(np.int32),
        pixels[..., :1] / 255.0,
        pixels / 100.0,
        np.full((9, 9), np.nan),
        pixels[..., 0] > 99,
        np.dstack([pixels, pixels[..., 0]]),
        torch.from_numpy(pixels.copy()).permute(2, 0, 1),
        shown[1],
        shown[2].convert("P"),
        "no\0path",
        object(),
    ]


def test_predictions_equal_the_engines_own(
    client: Client, engine: Engine, sources: list[Any]
) -> None:
    for source in sources:  # one by one: file objects are read once
        again = io.BytesIO(png(5)) if isinstance(source, io.BytesIO) else source
        assert_equal(client.classify([source]), engine.classify([again]))
    paths = [each for each in sources if isinstance(each, str | Path)]
    wanted: dict[str, Any] = {"embeddings": True, "keep_masks": False}
    expected = engine.classify(paths, **wanted)
    assert_equal(client.classify(paths, **wanted), expected)

    async def asked() -> list[Prediction]:
        async with AsyncClient(client._client._connection.url, "tiny") as own:
            return await own.classify(paths, **wanted)

    assert_equal(asyncio.run(asked()), expected)
    assert client.manifest == engine.manifest
    assert [each["name"] for each in client.engines()] == ["tiny"]


def test_prompts_are_those_of_the_engine(client: Client, engine: Engine) -> None:
    dose = str(get_testdata_file("rtdose.dcm"))
    batch: list[Any] = [png(1), png(2), png(3), dose, dose, png(4), png(5), png(6)]
    boxes: list[Any] = [
        (10, 20, 50, 55),
        np.array([1, 2, 30, 40.5], np.float32),
        None,
        {2: (1, 1, 5, 5), 77: (1, 1, 2, 2)},
        None,
        (5, 5, 500, 500),
        (5, 5, 4, 4),
        (1, 2, "x", 4),
    ]
    points: list[Any] = [None, [(30, 20), (60, 40, 0)], np.array([[3, 3]]), None,
                         {0: [(2, 2)]}, None, None, None]  # fmt: skip
    assert_equal(
        client.classify(batch, boxes=boxes, points=points),
        engine.classify(batch, boxes=boxes, points=points),
    )
    with refuses(InputError, "input.count_mismatch", "boxes"):
        client.classify(batch, boxes=[None])
    with refuses(InputError, "input.empty", "batch"):
        client.classify([])


def test_a_stream_answers_in_order_what_its_source_waits_for(client: Client) -> None:
    answered = threading.Semaphore(1)

    def sources() -> Iterator[bytes]:
        for seed in range(5):
            assert answered.acquire(timeout=60)
            yield png(seed)
        raise ZeroDivisionError

    found = client.stream(sources())
    for seed in range(5):
        assert next(found).source == f"item {seed}"
        answered.release()
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_a_stream_that_is_left_leaves_the_client_usable(client: Client) -> None:
    pulled = []

    def endless() -> Iterator[bytes]:
        while True:
            pulled.append(1)
            yield png(1)

    found = client.stream(endless())
    assert next(found).error is None
    found.close()  # type: ignore[attr-defined]
    assert client.classify(png(2))[0].error is None
    client.close()
    with refuses(InputError, "serve.client_closed"):
        client.classify(png(3))


def test_errors_of_the_service_keep_their_class_and_code(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"classify {'a' * 32}\n")
    tokens.chmod(0o600)
    url = str(serve(security={"token_file": str(tokens)}).base_url)
    monkeypatch.delenv("MEDFOCUS_TOKEN", raising=False)
    for token in (None, "b" * 32):
        with Client(url, "tiny", token=token) as client, refuses(RequestError, "serve.no_token"):
            client.classify(png(1))
    monkeypatch.setenv("MEDFOCUS_TOKEN", "a" * 32)
    with Client(url, "other") as client, refuses(InputError, "serve.unknown_engine", "other"):
        client.classify(png(1))
    with Client(url) as client:
        assert client.classify(png(1))[0].error is None
    for wrong in ("two\nlines", "", "ä"):
        with refuses(InputError, "serve.token", "token"):
            Client(url, token=wrong)
    for wrong in (
        "127.0.0.1:8000",
        "ftp://a",
        "http://",
        "http://u:p@a",
        "http://a:b",
        "http://a?b",
    ):
        with refuses(InputError, "serve.url", "url"):
            Client(wrong)


def test_what_is_wrong_with_one_file_spares_the_others(serve: Serve) -> None:
    url = str(serve(limits={"body_bytes": 20_000, "seconds": 60}).base_url)
    noise = png(1, 400, 400)
    with Client(url) as client:
        first, second, third = client.classify([png(1), noise, png(2)])
    assert first.error is None
    assert third.error is None
    assert second.error is not None
    assert (second.error.code, second.error.item) == ("serve.body_too_large", "item 1")
    with Client(url, timeout=1e-6) as client:
        (late,) = client.classify([png(1)])
    assert late.error is not None
    assert (late.error.code, late.error.item) == ("serve.deadline", "item 0")


def test_a_service_that_is_not_there(serve: Serve) -> None:
    service = serve()
    with Client("http://127.0.0.1:9") as client, refuses(ServiceError, "serve.unreachable"):
        client.classify(png(1))
    elsewhere = f"{service.base_url}/elsewhere"
    with Client(elsewhere, "tiny") as client, refuses(RequestError, "serve.not_found"):
        client.classify(png(1))


def test_a_busy_service_is_asked_again(
    engine_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = {"tiny": {"path": str(engine_directory)}}
    limits = {"queue": 1}
    made = service(checked({"engines": engines, "port": 0, "limits": limits}, Path(), "test"))
    made.engines.load("tiny", made.config.engines["tiny"])
    admitted, refusals = made.engines.admitted, []
    with running(made) as http, ExitStack() as others:
        others.enter_context(admitted("tiny", 1))
        with Client(str(http.base_url), timeout=0.9) as client, refuses(BusyError, "serve.busy"):
            client.classify(png(1))

        @contextmanager
        def until_refused(name: str, images: int) -> Iterator[ServedEngine]:
            try:
                with admitted(name, images) as served:
                    yield served
            except BusyError:
                refusals.append(name)
                others.close()
                raise

        monkeypatch.setattr(made.engines, "admitted", until_refused)
        with Client(str(http.base_url)) as client:
            assert client.classify(png(1))[0].error is None
    assert refusals == ["tiny"]


def test_a_pinned_version_is_the_only_one(engine_directory: Path) -> None:
    engines = {"tiny": {"path": str(engine_directory)}}
    made = service(checked({"engines": engines, "port": 0}, Path(), "test"))
    served = made.engines.load("tiny", made.config.engines["tiny"])
    with running(made) as http, Client(str(http.base_url)) as client:
        client.pin()
        assert client.classify(png(1))[0].error is None
        served.version = "0" * 16
        with refuses(ServiceError, "serve.engine_changed", "tiny"):
            client.classify(png(1))


def test_certificates_are_checked(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=here -keyout key -out ca"
    subject = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *subject], cwd=tmp_path, check=True, capture_output=True)
    files = {"certificate": str(tmp_path / "ca"), "key": str(tmp_path / "key")}
    url = str(serve(security=files).base_url).replace("http:", "https:")
    with Client(url) as client, refuses(ServiceError, "serve.untrusted"):
        client.engines()
    with Client(url, verify=tmp_path / "ca") as client:
        assert client.classify(png(1))[0].error is None
    other = url.replace("127.0.0.1", "localhost")
    with Client(other, verify=tmp_path / "ca") as client, refuses(ServiceError, "serve.untrusted"):
        client.engines()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca"))
    with Client(url) as client:
        assert client.engines()
    for name in ("key", "absent"):
        with refuses(FileError, "serve.certificate", name):
            Client(url, verify=tmp_path / name)
