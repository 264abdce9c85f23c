"""KServe's own client, in an environment of its own: it pins versions that ours need not have."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from medfocus.engine import Engine
from tests.serving.api.test_classify import plain, png
from tests.serving.open_inference.conftest import ServeBoth

CLIENTS = Path(__file__).parent / "clients"
COMPLETE = "complete"


@pytest.fixture(scope="module")
def python(pytestconfig: pytest.Config) -> Path:
    """An interpreter with the packages of kserve.txt; made once and kept in pytest's cache."""
    wanted = (CLIENTS / "kserve.txt").read_text()
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("kserve") / f"python{sys.version_info.minor}"
    interpreter, complete = folder / "bin" / "python", folder / COMPLETE
    if not complete.exists() or complete.read_text() != wanted:
        venv.create(folder, clear=True, with_pip=True)
        install = f"-m pip install --quiet --no-deps -r {CLIENTS / 'kserve.txt'}"
        subprocess.run([interpreter, *install.split()], check=True)
        complete.write_text(wanted)
    return interpreter


@pytest.mark.long
def test_its_answers_are_the_engines(
    python: Path, serve_both: ServeBoth, engine: Engine, tmp_path: Path
) -> None:
    dicom = Path(str(get_testdata_file("rtdose.dcm")))  # fifteen frames
    files = [png(1), dicom.read_bytes(), b"none"]
    for number, data in enumerate(files):
        (tmp_path / str(number)).write_bytes(data)
    running = serve_both()
    script = str(CLIENTS / "kserve_client.py")
    command = [str(python), script, running.http, running.grpc, str(tmp_path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found, expected = json.loads(done.stdout), engine.classify(files)
    assert len(found) == 4
    rows = [list(each.probabilities.values()) or [np.nan] * 3 for each in expected]
    for answer in found.values():
        assert [json.loads(each) for each in answer["prediction"]] == plain(expected)
        np.testing.assert_array_equal(answer["probabilities"], rows)
        assert answer["focused"] == [each.focused for each in expected]
