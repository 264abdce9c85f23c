"""The Containerfile's image, really built, answers without torch and without a network."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from medfocus.phantoms import make_phantom
from tests.checkout import copy_checkout

PROGRAMS = ("buildah", "debootstrap")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)} (Debian packages)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="debootstrap and chroot isolation need root"),
]

Buildah = Callable[..., str]


@pytest.fixture
def buildah(tmp_path: Path) -> Iterator[Buildah]:
    """Runs buildah with a storage of its own, so that nothing is left behind."""
    settings = tmp_path / "storage.conf"
    settings.write_text(
        f'[storage]\ndriver = "vfs"\nrunroot = "{tmp_path}/run"\ngraphroot = "{tmp_path}/graph"\n'
    )
    environment = os.environ | {"CONTAINERS_STORAGE_CONF": str(settings)}

    def run(*arguments: str | Path) -> str:
        command = ["buildah", *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    yield run
    run("rmi", "--all", "--force")


def pip_settings() -> list[str]:
    """Mounts of pip's settings here: the build must find the packages that we find."""
    found = subprocess.run(
        [sys.executable, "-m", "pip", "config", "debug"], capture_output=True, text=True
    ).stdout
    files = [line.split(",")[0].strip() for line in found.splitlines() if "exists: True" in line]
    folders = {Path(file).parent for file in files if Path(file).parent.name == "pip"}
    mounts = [file for file in files if Path(file).parent not in folders]
    certificates = Path("/etc/ssl/certs")  # those that this machine trusts
    return [f"--volume={path}:{path}:ro" for path in (*mounts, *folders, certificates)]


def test_the_image_classifies(
    buildah: Buildah,
    tmp_path: Path,
    exported_engine: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path / "root"
    packages = "--include=python3,python3-venv,ca-certificates"
    subprocess.run(
        ["debootstrap", "--variant=minbase", packages, "bookworm", root],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    base = buildah("from", "scratch")
    buildah("copy", "--quiet", base, root, "/")
    buildah("commit", "--quiet", base, "localhost/base")
    shutil.rmtree(root)
    checkout = copy_checkout(tmp_path / "checkout")
    arguments = ["--isolation", "chroot", "--network", "host", "--build-arg", "BASE=localhost/base"]
    buildah("build", *arguments, *pip_settings(), "--tag", "medfocus", checkout)

    images = tmp_path_factory.mktemp("images")
    for number, organ in enumerate(("brain", "lung")):
        Image.fromarray(make_phantom(number, organ, None, 0).image).save(images / f"{organ}.png")
    for path in (exported_engine, images):
        path.chmod(0o755)  # the image's user is another than ours
    container = buildah("from", "localhost/medfocus")
    given = [f"--volume={exported_engine}:/engine:ro", f"--volume={images}:/images:ro"]
    run = ["run", "--isolation", "chroot", "--user", "medfocus", *given, container, "--"]
    assert "No module named 'torch'" in buildah(
        *run, "sh", "-c", "/opt/medfocus/bin/python -c 'import torch' 2>&1 || true"
    )
    for backend in ("onnxruntime", "openvino"):
        command = ["medfocus", "classify", "/engine", "/images", "--format", "csv"]
        answers = buildah(*run, *command, "--backend", backend).splitlines()
        assert sorted(Path(line.split(",")[0]).name for line in answers[1:]) == [
            "brain.png",
            "lung.png",
        ]
