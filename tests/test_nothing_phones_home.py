"""No command, and no program that uses `Engine`, contacts anyone or writes but where it should.

Whole processes are watched by strace, which sees native code too. They run as on a user's machine:
without the variables by which packages notice that they are tested, and with an empty home folder.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from medfocus.phantoms.catalogue import DEMO_KINDS
from medfocus.phantoms.image_folder import write_image_folder
from tests.system_calls import SystemCalls, traced

Watch = Callable[..., SystemCalls]

# The system's search paths, where medfocus is, and what makes NumPy run on this processor.
KEPT = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
NO_HOMES = {"has no entry": "~", "cannot be written": os.devnull}


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    """Runs a Python command line in an empty folder, and returns its system calls.

    It must succeed, look nothing up, contact nobody, and write only into `out`, the cache and the
    folder of temporary files, which it must leave empty.
    """

    def watched(*arguments: str, home: str | None = None) -> SystemCalls:
        folders = {name: tmp_path / name for name in ("home", "temporary", "current", "out")}
        for folder in folders.values():
            folder.mkdir(exist_ok=True)
        environment = {
            **{name: os.environ[name] for name in KEPT if name in os.environ},
            "HOME": str(folders["home"]) if home is None else home,
            "TMPDIR": str(folders["temporary"]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [sys.executable, *arguments]
        calls, done = traced(command, environment, folders["current"], tmp_path / "calls")
        assert done.returncode == 0, done.stderr
        assert (calls.lookups, calls.addresses) == ((), ())
        cache = folders["home"] / ".cache" / "medfocus"
        ancestors = {cache, *cache.parents}  # which are created with it
        outside = calls.written_outside(cache, folders["temporary"], folders["out"])
        assert not set(outside) - ancestors
        left = [*folders["temporary"].rglob("*"), *folders["current"].iterdir()]
        # An empty one that PyTorch makes when it is imported, and is told by commands where.
        assert not [path for path in left if not path.name.startswith("torchinductor_")]
        return calls

    return watched


def ct() -> str:
    return str(get_testdata_file("CT_small.dcm", download=False))


# --- the instrument


CONTACTS = """
import os, socket
socket.getaddrinfo("localhost", 80)  # found in a file, no packet is sent
for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
    try:
        socket.socket(family, socket.SOCK_DGRAM).connect((address, 9))  # sends nothing
    except OSError:
        pass
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", 9))
open("file", "w").close()
os.mkdir("folder")
os.rename("file", "folder/renamed")
open("folder/renamed").close()
if os.fork() == 0:
    os.open("of a child", os.O_CREAT)
    os._exit(0)
os.wait()
"""


def test_the_instrument_sees_lookups_addresses_and_files(tmp_path: Path) -> None:
    environment = {"PYTHONDONTWRITEBYTECODE": "1"}
    calls, done = traced(
        [sys.executable, "-c", CONTACTS], environment, tmp_path, tmp_path / "calls"
    )
    assert done.returncode == 0, done.stderr
    assert "/etc/hosts" in calls.lookups
    assert set(calls.addresses) == {"192.0.2.1", "2001:db8::1"}
    names = ["file", "folder", "folder/renamed", "of a child"]
    assert calls.written_outside() == [tmp_path / name for name in names]
    assert calls.written_outside(tmp_path) == []


# --- running engines


PROGRAM = """
import sys
from medfocus import Engine

for backend in sys.argv[3:]:
    engine = Engine.load(sys.argv[1], backend)
    (prediction,) = engine.classify([sys.argv[2]], strict=True)
    engine.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend", ["onnxruntime", "openvino", pytest.param("torch", marks=pytest.mark.long)]
)
def test_classify(exported_engine: Path, tmp_path: Path, watch: Watch, backend: str) -> None:
    output = ["-o", str(tmp_path / "out/results.csv"), "--overlays", str(tmp_path / "out/overlays")]
    arguments = ["classify", str(exported_engine), ct(), "--backend", backend, *output]
    calls = watch("-m", "medfocus", *arguments)
    assert tmp_path / "out/overlays" in calls.written


@pytest.mark.slow
def test_a_program_that_uses_an_engine(exported_engine: Path, watch: Watch) -> None:
    watch("-c", PROGRAM, str(exported_engine), ct(), "onnxruntime", "openvino", "torch")


@pytest.mark.slow
@pytest.mark.parametrize("home", NO_HOMES.values(), ids=NO_HOMES)
def test_a_home_folder_that(home: str, exported_engine: Path, watch: Watch) -> None:
    watch("-c", PROGRAM, str(exported_engine), ct(), "onnxruntime", "openvino", home=home)


SERVED = """
import http.client, json, re, signal, subprocess, sys

command = [sys.executable, "-m", "medfocus", "serve", sys.argv[1], "--port", "0"]
command += ["--grpc-port", "0"]
service = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
address = re.search("127.0.0.1:[0-9]+", service.stderr.readline())[0]
for line in service.stderr:
    if "answers" in line:
        break
client = http.client.HTTPConnection(address, timeout=120)
headers = {"content-type": "application/octet-stream"}
for path in ("/docs", "/metrics", "/openapi.json"):
    client.request("GET", path)
    assert client.getresponse().read()
for image in (open(sys.argv[2], "rb").read(), bytes(3_000_000)):  # the second goes to a file
    client.request("POST", "/v1/engines/" + sys.argv[3] + "/classify", image, headers)
    answered = client.getresponse()
    assert answered.status == 200, json.load(answered)
    answered.read()
service.send_signal(signal.SIGTERM)
service.stderr.read()
sys.exit(service.wait())
"""


@pytest.mark.slow
def test_serve(exported_engine: Path, watch: Watch) -> None:
    watch("-c", SERVED, str(exported_engine), ct(), exported_engine.name.lower())


# --- making and measuring engines

HOMES = pytest.mark.parametrize("home", [None, "~"], ids=["good home", "no entry"])


@pytest.mark.long
@HOMES
def test_fit_and_eval(home: str | None, tmp_path: Path, watch: Watch) -> None:
    data, head = tmp_path / "data", str(tmp_path / "out/head.safetensors")
    write_image_folder(data, DEMO_KINDS, per_class=4, seed=1)
    cache = ["--cache", str(tmp_path / "out/cache")] if home else []
    watch("-m", "medfocus", "fit", str(data), "--shots", "2", "-o", head, *cache, home=home)
    report = ["--head", head, "--report", str(tmp_path / "out/report")]
    watch("-m", "medfocus", "eval", str(data), *report, *cache, home=home)


@pytest.mark.long
@HOMES
def test_export(home: str | None, tmp_path: Path, watch: Watch) -> None:
    watch("-m", "medfocus", "export", "--int8", "-o", str(tmp_path / "out/engine"), home=home)


@pytest.mark.long
@pytest.mark.parametrize("part", ["models", "startup"])
def test_bench(part: str, exported_engine: Path, tmp_path: Path, watch: Watch) -> None:
    options = ["--engine", str(exported_engine), "--seconds", "0.1", "--batch", "1"]
    options += ["--baselines", "upstream"]
    watch("-m", "medfocus", "bench", part, *options, "--plot", str(tmp_path / "out/plots"))
