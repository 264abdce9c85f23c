"""A process that the tests here share, where what they do must not end it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.api.test_classify import png
from tests.serving.process import ServiceProcess, serving

BODY_BYTES = 8 * 2**20
LIMITS = f"[limits]\nbody_bytes = {BODY_BYTES}\nidle_seconds = 2\n"


@pytest.fixture(scope="session")
def shared(
    tmp_path_factory: pytest.TempPathFactory, engine_directory: Path
) -> Iterator[ServiceProcess]:
    """See `service`."""
    config = f'{LIMITS}[engines.tiny]\npath = "{engine_directory}"\ndeterministic = true\n'
    with serving(tmp_path_factory.mktemp("shared"), config) as process:
        yield process


@pytest.fixture
def service(shared: ServiceProcess) -> Iterator[ServiceProcess]:
    """A service with engine `tiny`, that must answer after the test as before, and log no error."""
    before, logged = answer(shared), len(shared.log)
    yield shared
    assert shared.process.poll() is None
    assert answer(shared) == before
    assert "Traceback" not in shared.log[logged:], shared.log[logged:]


def answer(process: ServiceProcess) -> object:
    """What it answers to a good request."""
    response = process.client.post(
        "/v1/engines/tiny/classify", content=png(1), headers={"content-type": "image/png"}
    )
    assert response.status_code == 200, response.text
    return response.json()["predictions"]
