"""`medfocus serve --grpc-port`, as it is run: TLS, and the end of it."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from medfocus.engine import Engine
from tests.serving.api.test_classify import plain, png
from tests.serving.open_inference.test_grpc import request
from tests.waiting import wait_until


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@contextmanager
def serving(directory: Path, folder: Path, more: str = "") -> Iterator[tuple[int, int]]:
    """Ports of HTTP and gRPC of the command; at the end SIGTERM, after which it must succeed."""
    ports = free_port(), free_port()
    text = f"port = {ports[0]}\ngrpc_port = {ports[1]}\n{more}\n"
    text += f"[engines.tiny]\npath = {json.dumps(str(directory))}\ndeterministic = true\n"
    config = folder / "serve.toml"
    config.write_text(text)
    command = [sys.executable, "-m", "medfocus", "serve", "--config", str(config)]
    process = subprocess.Popen(command)
    try:
        yield ports
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_accepted_calls_are_answered_after_sigterm(
    engine_directory: Path, tmp_path: Path, engine: Engine
) -> None:
    files = [png(seed) for seed in range(60)]
    with serving(engine_directory, tmp_path) as (http, port):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(f"127.0.0.1:{port}"))

        def ready() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{http}/readyz").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(ready)
        call = stub.ModelInfer.future(request(*files))
        engines = f"http://127.0.0.1:{http}/v1/engines"
        wait_until(lambda: call.done() or httpx.get(engines).json()[0]["held"] > 0)
    (output,) = (each for each in call.result().outputs if each.name == "prediction")
    found = [json.loads(each) for each in output.contents.bytes_contents]
    assert found == plain(engine.classify(files))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_calls_are_encrypted_with_the_services_certificate(
    engine_directory: Path, tmp_path: Path
) -> None:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    command += " -keyout key.pem -out cert.pem -subj /CN=localhost -addext"
    subprocess.run(
        [*command.split(), "subjectAltName=DNS:localhost"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    security = '[security]\ncertificate = "cert.pem"\nkey = "key.pem"'
    with serving(engine_directory, tmp_path, security) as (_, port):
        credentials = grpc.ssl_channel_credentials((tmp_path / "cert.pem").read_bytes())
        channel = grpc.secure_channel(f"localhost:{port}", credentials)
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(service_pb2.ServerLiveRequest(), wait_for_ready=True).live
        plain_text = grpc.insecure_channel(f"localhost:{port}")
        with pytest.raises(grpc.RpcError) as caught:
            service_pb2_grpc.GRPCInferenceServiceStub(plain_text).ServerLive(
                service_pb2.ServerLiveRequest()
            )
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
