"""Disks that are full: an upload is refused for now, and the service goes on."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.faults.conftest import answer
from tests.serving.process import ServiceProcess, serving
from tests.waiting import wait_until

MOUNT = 'mount -t tmpfs -o size=2m none "$TMPDIR" && exec "$@"'
UNSHARED = ("unshare", "--mount", "--map-root-user", "sh", "-c", MOUNT, "sh")


def mounted(folder: Path) -> bool:
    command = ["env", f"TMPDIR={folder}", *UNSHARED, "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def crowded(tmp_path: Path, engine_directory: Path) -> Iterator[ServiceProcess]:
    """A service whose folder for uploads takes 2 MiB, in a mount namespace of its own, and whose
    access log cannot be written either.
    """
    (tmp_path / "uploads").mkdir()
    if not mounted(tmp_path / "uploads"):
        pytest.skip("this machine allows no mount namespace")
    config = f'[engines.tiny]\npath = "{engine_directory}"\n'
    environment = {"TMPDIR": str(tmp_path / "uploads")}
    full = Path("/dev/full")
    with serving(
        tmp_path, config, within=UNSHARED, stdout=full, environment=environment
    ) as process:
        yield process


def test_a_full_disk(crowded: ServiceProcess) -> None:
    before, large = answer(crowded), bytes(3 * 2**20)
    descriptors = crowded.descriptors()
    for _ in range(3):  # nothing of a refused upload stays
        for address, kind, files in (
            ("/v1/engines/tiny/classify", None, [("files", ("a", large))]),
            ("/v1/engines/tiny/classify", "image/png", None),
            ("/dicom-web/studies", "application/dicom", None),
        ):
            response = crowded.client.post(
                address,
                content=None if files else large,
                files=files,
                headers={"content-type": kind} if kind else None,
            )
            assert (response.status_code, response.json()["code"]) == (503, "serve.no_space")
            assert response.headers["retry-after"]
    kept = crowded.client.post("/v1/engines/tiny/classify", content=large[: 3 * 2**19],
                               headers={"content-type": "image/png"})  # fmt: skip
    assert kept.status_code == 200
    assert answer(crowded) == before
    wait_until(lambda: crowded.descriptors() <= descriptors + 2)  # of 9 uploads that were refused
    assert crowded.end() == 0
