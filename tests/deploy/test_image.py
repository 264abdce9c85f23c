"""The Containerfile's image, really built, classifies and serves without torch and a network."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from medfocus.phantoms import make_phantom
from tests.checkout import copy_checkout
from tests.waiting import wait_until

PROGRAMS = ("buildah", "debootstrap")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)} (Debian packages)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="debootstrap and chroot isolation need root"),
]

Buildah = Callable[..., str]
HERE = Path(__file__).parent
TOKEN = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """Runs buildah with a storage of its own, so that nothing is left behind."""
    tmp_path = tmp_path_factory.mktemp("storage")
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
    run("rm", "--all")
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


@pytest.fixture(scope="module")
def container(buildah: Buildah, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A container of the image."""
    folder = tmp_path_factory.mktemp("build")
    root = folder / "root"
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
    checkout = copy_checkout(folder / "checkout")
    arguments = ["--isolation", "chroot", "--network", "host", "--build-arg", "BASE=localhost/base"]
    arguments += ["--format", "docker"]  # which keeps the health check
    buildah("build", *arguments, *pip_settings(), "--tag", "medfocus", checkout)
    return buildah("from", "localhost/medfocus")


@pytest.fixture
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    folder.chmod(0o755)
    for number, organ in enumerate(("brain", "lung")):
        Image.fromarray(make_phantom(number, organ, None, 0).image).save(folder / f"{organ}.png")
    return folder


@pytest.fixture
def engine(exported_engine: Path) -> Path:
    exported_engine.chmod(0o755)  # the image's user is another than ours
    return exported_engine


def test_the_image_classifies(buildah: Buildah, container: str, engine: Path, images: Path) -> None:
    given = [f"--volume={engine}:/engine:ro", f"--volume={images}:/images:ro"]
    run = ["run", "--isolation", "chroot", *given, container, "--"]
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


def test_the_image_serves_with_nothing_that_can_be_written(
    buildah: Buildah, container: str, engine: Path, images: Path, tmp_path: Path
) -> None:
    config = json.loads(buildah("inspect", "--type", "image", "localhost/medfocus"))
    config = config["Docker"]["config"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "serve.toml").write_text(
        f'host = "0.0.0.0"\nport = {port}\n[engines.random]\npath = "/engines/random"\n'
        '[security]\ntoken_file = "tokens"\n'
    )
    tokens = tmp_path / "tokens"
    tokens.write_text(f"classify {TOKEN}\n")
    tokens.chmod(0o400)
    os.chown(tokens, *map(int, config["User"].split(":")))
    tmp_path.chmod(0o755)
    variables = {
        "ROOT": buildah("mount", container),
        "ENGINE": str(engine),
        "SETTINGS": str(tmp_path),
        "IMAGE_USER": config["User"],
    }
    command = [*config["Entrypoint"], "serve", "--config", "/etc/medfocus/serve.toml"]
    service = subprocess.Popen(
        ["unshare", "--mount", "sh", HERE / "read_only.sh", *command],
        env=os.environ | variables,
        stdout=subprocess.DEVNULL,
    )
    check = [part.replace(":8000/", f":{port}/") for part in config["Healthcheck"]["Test"]]
    assert check[0] == "CMD"
    try:
        classified(port, images / "brain.png", lambda: service.poll() is None)
        subprocess.run(check[1:], check=True)
    finally:
        service.terminate()
        assert service.wait() == 0  # accepted requests were answered
    assert subprocess.run(check[1:], stderr=subprocess.DEVNULL).returncode == 1


def classified(port: int, image: Path, runs: Callable[[], bool]) -> None:
    """Ask the service, once it is ready, with a token and without."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:

        def is_ready() -> bool:
            assert runs()
            try:
                return client.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(is_ready)
        address, body = "/v1/engines/random/classify", image.read_bytes()
        large = body + bytes(2**21)  # kept in /tmp while it is uploaded
        files = [("files", ("a", body)), ("files", ("b", large))]
        assert client.post(address, files=files).status_code == 401
        answer = client.post(address, files=files, headers={"authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200
        first, second = answer.json()["predictions"]
        assert first["label"] == second["label"]
