"""SIGTERM under load, an end that takes too long, kill -9, and the death of what reads images."""

import base64
import os
import re
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.serving.api.test_classify import ADDRESS, png
from tests.serving.faults.conftest import answer
from tests.serving.process import ServiceProcess, serving
from tests.waiting import runs, wait_until

CLIENTS = 16
IMAGE = base64.b64encode(png(1, 8, 8)).decode()
MANY = 40  # images in a request: with `CLIENTS` of them, more than a second's work


def config(engine_directory: Path, drain_seconds: int = 100, port: int = 0) -> str:
    limits = f"[limits]\ndrain_seconds = {drain_seconds}\nseconds = 110\nqueue = 100_000\n"
    return f'port = {port}\n{limits}[engines.tiny]\npath = "{engine_directory}"\n'


@contextmanager
def under_load(service: ServiceProcess, images: int) -> Iterator[list[Future[httpx.Response]]]:
    """As many requests as `CLIENTS`, of so many images each, which the engine has accepted."""
    url, body = f"{service.client.base_url}{ADDRESS}", {"images": [IMAGE] * images}

    def held() -> int:
        return sum(state["held"] for state in service.client.get("/v1/engines").json())

    with ThreadPoolExecutor(CLIENTS) as pool:
        asked = [pool.submit(httpx.post, url, json=body, timeout=120) for _ in range(CLIENTS)]
        wait_until(lambda: held() + images * sum(each.done() for each in asked) >= CLIENTS * images)
        yield asked


def outcome(asked: Future[httpx.Response]) -> tuple[int, str | None]:
    """The status and code; no answer at all is an error of the test."""
    response = asked.result(120)
    return response.status_code, response.json().get("code")


def connects(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=120).close()
    except ConnectionRefusedError:
        return False
    return True


def test_sigterm_under_load(tmp_path: Path, engine_directory: Path) -> None:
    """What was accepted is answered, and what the log says was answered, a client has received."""
    received = Counter[int]()

    def ask(client: httpx.Client) -> None:
        while True:
            try:
                received[client.post(ADDRESS, json={"images": [IMAGE]}).status_code] += 1
            except httpx.TransportError:  # refused, or closed before the request was read
                return

    with (
        serving(tmp_path, config(engine_directory)) as service,
        ThreadPoolExecutor() as pool,
        httpx.Client(base_url=service.client.base_url, timeout=120) as client,
    ):
        asking = [pool.submit(ask, client) for _ in range(4)]  # they never stop by themselves
        wait_until(lambda: received[200] > 10)
        with under_load(service, 10) as asked:
            service.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not connects(service.address))
            assert [outcome(each) for each in asked] == [(200, None)] * CLIENTS
            assert all(len(each.result().json()["predictions"]) == 10 for each in asked)
        for each in asking:
            each.result(120)
        assert service.process.wait(120) == 0
        assert "Traceback" not in service.log
        posts = "".join(line for line in service.accesses if '"POST"' in line)
        logged = Counter(int(status) for status in re.findall(r'"status": (\d+)', posts))
        assert logged == received + Counter({200: CLIENTS}) == Counter({200: logged[200]})


def test_an_end_that_takes_too_long(tmp_path: Path, engine_directory: Path) -> None:
    with (
        serving(tmp_path, config(engine_directory, drain_seconds=1)) as service,
        under_load(service, MANY) as asked,
    ):
        service.process.send_signal(signal.SIGTERM)
        statuses = Counter(outcome(each) for each in asked)
        assert statuses[503, "serve.stopping"]
        assert set(statuses) <= {(503, "serve.stopping"), (200, None)}
        assert service.process.wait(120) == 0


def test_a_second_signal_ends_it_at_once(tmp_path: Path, engine_directory: Path) -> None:
    with (
        serving(tmp_path, config(engine_directory)) as service,
        under_load(service, MANY) as asked,
    ):
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not connects(service.address))
        assert service.end() == 0
        ended = [each for each in asked if each.exception(120) or outcome(each)[0] != 200]
        for each in ended:  # by an answer, or by none
            assert isinstance(each.exception(), httpx.TransportError | None)
            assert each.exception() or outcome(each) == (503, "serve.stopping")
        assert ended


def test_kill_and_restart(tmp_path: Path, engine_directory: Path) -> None:
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    environment = {"TMPDIR": str(uploads)}
    with serving(tmp_path, config(engine_directory), environment=environment) as service:
        before, address, pids = answer(service), service.address, service.pids
        with socket.create_connection(address) as connection:
            connection.sendall(
                f"POST {ADDRESS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
                f"Content-Length: {10**8}\r\n\r\n".encode()
                + bytes(8 * 2**20)
            )
            wait_until(lambda: uploads_of(service) == 1)  # it is on disk
            assert service.end(signal.SIGKILL) == -signal.SIGKILL
            with suppress(ConnectionResetError):  # or its end
                assert connection.recv(1) == b""
        wait_until(lambda: not any(runs(pid) for pid in pids))  # what reads images ends too
        assert list(uploads.iterdir()) == []
    again = config(engine_directory, port=address[1])
    with serving(tmp_path, again, environment=environment) as service:
        assert service.address == address
        assert answer(service) == before


def uploads_of(service: ServiceProcess) -> int:
    """Files that are open in the folder of uploads, and have no name."""
    links = [path.readlink() for path in Path(f"/proc/{service.process.pid}/fd").iterdir()]
    return sum(link.is_relative_to(service.folder / "uploads") for link in links)


def test_the_death_of_what_reads_images(service: ServiceProcess) -> None:
    before = answer(service)
    own, *readers = service.pids
    assert readers
    for pid in readers:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(runs, readers)))
    assert answer(service) == before
    assert service.process.pid == own
