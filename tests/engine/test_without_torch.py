"""The installation of an air-gapped hospital: classification works where torch is missing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

# Run in a process of its own, in which importing any of these fails.
PROGRAM = """
import sys

class Refuse:
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "triton", "sam2", "open_clip"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
from medfocus.classify.command import main as classify
from medfocus.export.command import main as export

status = classify(sys.argv[1:])
assert "torch" not in sys.modules
assert export(["--inspect", sys.argv[1]]) == 0
assert export(["--fp16", "-o", sys.argv[1] + "-2"]) == 2
sys.exit(status)
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "auto"])
def test_a_dicom_is_classified(exported_engine: Path, tmp_path: Path, backend: str) -> None:
    ct = get_testdata_file("CT_small.dcm", download=False)
    out = tmp_path / "predictions.json"
    arguments = [str(exported_engine), str(ct), "--backend", backend, "-o", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (prediction,) = json.loads(out.read_text())
    assert prediction["error"] is None
    assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert "no: torch is not" in done.stdout
    assert "pip install 'medfocus[export]'" in done.stderr


@pytest.mark.slow
def test_the_torch_backend_names_the_command_that_installs_torch(exported_engine: Path) -> None:
    ct = get_testdata_file("CT_small.dcm", download=False)
    arguments = [str(exported_engine), str(ct), "--backend", "torch"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert "pip install 'medfocus[torch]'" in done.stderr
