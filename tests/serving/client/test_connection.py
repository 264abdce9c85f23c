"""What a client says of a service that fails, against one that answers what a test wants."""

import ast
import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from medfocus.serving import Client
from medfocus.serving.client import connection
from medfocus.serving.client.answers import error_of
from medfocus.serving.client.connection import Connection
from medfocus.serving.errors import RequestError, ServiceError
from tests.errors import refuses
from tests.serving.api.test_classify import png
from tests.serving.conftest import Serve
from tests.system_calls import traced

Answering = Callable[[bytes | None], str]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def answering() -> Iterator[Answering]:
    """A function from an answer to the URL of a service that gives it; None is silent."""
    sockets: list[socket.socket] = []

    def start(answer: bytes | None) -> str:
        accepting = socket.create_server(("127.0.0.1", 0))
        sockets.append(accepting)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connected, _ = accepting.accept()
                    sockets.append(connected)
                    if answer is not None:
                        connected.recv(2**16)
                        connected.sendall(answer)
                        connected.shutdown(socket.SHUT_WR)

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{accepting.getsockname()[1]}"

    yield start
    for each in sockets:
        each.close()


def http(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", "serve.no_answer"),
        (b"no HTTP\r\n\r\n", "serve.no_answer"),
        (http("200 OK", b"{}")[:-1], "serve.no_answer"),
        (http("200 OK", b"<html>"), "serve.unexpected"),
        (http("200 OK", b'{"predictions": [{}], "engine": {}}'), "serve.unexpected"),
        (http("200 OK", b"[" * 100_000), "serve.unexpected"),
        (http("404 Not Found", b"<html>"), "serve.unexpected"),
        (http("500 Internal Server Error", b"[]"), "serve.unexpected"),
        (http("302 Found", b"", "Location: http://192.0.2.1/"), "serve.unexpected"),
    ],
)
def test_what_is_no_answer_is_said_so(answering: Answering, answer: bytes, code: str) -> None:
    url = answering(answer)
    with Client(url, "tiny") as client, refuses(ServiceError, code, url):
        client.classify(png(1))


def test_a_service_that_is_silent_is_left(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_GRACE_SECONDS", 0.1)
    with (
        Client(answering(None), "tiny", timeout=0.1) as client,
        refuses(ServiceError, "serve.no_answer"),
    ):
        client.classify(png(1))


def test_ctrl_c_ends_a_run_that_waits_for_its_service(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    with socket.create_server(("127.0.0.1", 0)) as accepting:
        url = f"http://127.0.0.1:{accepting.getsockname()[1]}"
        command = [sys.executable, "-m", "medfocus", "classify", "--server", url, "a.png"]
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
            accepting.settimeout(300)
            connected, _ = accepting.accept()
            with connected:
                connected.recv(2**16)
                process.send_signal(signal.SIGINT)
                assert process.wait(300) == 130  # it would wait for ten minutes


def test_a_file_that_shrinks_while_it_is_sent_is_an_error_of_its_own(serve: Serve) -> None:
    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(size)[:5]

    async def sent() -> None:
        made = Connection(str(serve().base_url), None, 60, None)
        files = [("files", ("0", Shrinking(png(1)), "application/octet-stream"))]
        await made.post("/v1/engines/tiny/classify", {"files": files})

    with refuses(RequestError, "serve.request"):
        asyncio.run(sent())


def test_images_go_to_the_service_and_nowhere_else(serve: Serve, tmp_path: Path) -> None:
    for name in ("home", "current"):
        (tmp_path / name).mkdir()
    (tmp_path / "home" / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    (tmp_path / "current" / "a.png").write_bytes(png(1))
    kept = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://192.0.2.1:9")
    environment = {name: os.environ[name] for name in kept if name in os.environ} | proxies
    environment |= {"HOME": str(tmp_path / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "medfocus", "classify", f"--server={serve().base_url}"]
    calls, done = traced([*command, "a.png"], environment, tmp_path / "current", tmp_path / "calls")
    assert done.returncode == 0, done.stderr
    assert (calls.lookups, calls.addresses) == ((), ())
    assert not [path for path in calls.written if path.is_relative_to(tmp_path / "current")]


def test_importing_the_client_imports_neither_the_service_nor_a_runtime() -> None:
    program = (
        "import sys\n"
        "from medfocus.serving import AsyncClient, Client\n"
        "heavy = {'fastapi', 'pydantic', 'torch', 'onnxruntime', 'openvino', 'uvicorn'}\n"
        "assert not heavy & {*sys.modules}, heavy & {*sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


def raised() -> Iterator[tuple[str, str]]:
    """Class and code of every error that a request can end with, where the sources spell both."""
    paths = [
        path
        for room in ("io", "preprocess", "runtime")
        for path in (ROOT / "engine" / room).rglob("*.py")
    ]
    paths += [path for path in ROOT.glob("serving/*/*.py") if path.parent.name != "client"]
    paths += [ROOT / "serving" / name for name in ("engines.py", "inference.py")]
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if path.name != "tokens.py" and isinstance(node, ast.Call):
                for keyword in node.keywords:
                    if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                        yield ast.unparse(node.func), str(keyword.value.value)


def test_an_error_has_the_class_that_the_sources_raise_it_in() -> None:
    areas = ("image.", "dicom.", "input.", "device.", "output.", "engine.", "serve.")
    classes: dict[str, set[str]] = {}
    for kind, code in raised():
        if code.startswith(areas) and kind.endswith("Error"):
            classes.setdefault(code, set()).add(kind)
    assert len(classes) > 30
    del classes["serve.address"]  # of the service's start
    for code, kinds in classes.items():
        error = error_of({"code": code, "item": "a", "problem": "b", "hint": "c"})
        assert type(error).__name__ in kinds, code
