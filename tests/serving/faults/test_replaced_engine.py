"""An engine directory that changes while the service runs: what is loaded goes on."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from medfocus.serving.engines import EngineState
from tests.serving.api.test_classify import png
from tests.serving.process import ServiceProcess, serving
from tests.waiting import wait_until

BACKENDS = ("onnxruntime", "openvino", "torch")


@pytest.fixture
def service(tmp_path: Path, exported_engine: Path) -> Iterator[ServiceProcess]:
    shutil.copytree(exported_engine, tmp_path / "engine")
    config = "".join(
        f'[engines.{name}]\npath = "engine"\nbackend = "{name}"\ndeterministic = true\n'
        for name in BACKENDS
    )
    with serving(tmp_path, config) as process:
        yield process


def answers(service: ServiceProcess) -> list[object]:
    """What each engine answers, without its version."""
    found = []
    for name in BACKENDS:
        response = service.client.post(
            f"/v1/engines/{name}/classify?embedding=true",
            content=png(1),
            headers={"content-type": "image/png"},
        )
        assert response.status_code == 200, response.text
        found.append(response.json()["predictions"])
    return found


def states(service: ServiceProcess) -> list[EngineState]:
    return [EngineState(**each) for each in service.client.get("/v1/engines").json()]


def test_a_directory_that_is_overwritten_broken_and_replaced(
    service: ServiceProcess, engine_directory: Path
) -> None:
    before, versions = answers(service), {state.version for state in states(service)}
    engine = service.folder / "engine"
    for path in engine.iterdir():  # in place, as cp and rsync --inplace write
        path.write_bytes(bytes(path.stat().st_size))
    assert answers(service) == before
    for path in engine.iterdir():
        path.write_bytes(b"")
    assert answers(service) == before

    load = service.client.post("/v1/engines/torch/load")
    assert load.status_code == 500  # nothing is wrong with the request
    assert load.json()["code"].startswith("engine.")
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: service.log.count("is not reloaded") == len(BACKENDS))
    assert answers(service) == before
    assert {state.version for state in states(service)} == versions

    shutil.rmtree(engine)
    assert answers(service) == before
    shutil.copytree(engine_directory, engine)  # of the same models: another version, with torch
    load = service.client.post("/v1/engines/torch/load")
    assert load.status_code == 200, load.text
    assert {load.json()["version"]}.isdisjoint(versions)
    assert answers(service)[:2] == before[:2]
    assert service.end() == 0
