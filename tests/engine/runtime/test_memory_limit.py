"""What each runtime really raises where memory ends: the batch runs in halves."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.artifact.manifest import DIGEST_NAME, FILE_NAME
from medfocus.engine.artifact.writing import write_manifest

# The limit is set once the runtime has its threads, whose stacks count. A batch of 32 images needs
# several hundred MB more, one of 2 a few.
PROGRAM = """
import json, resource, sys
from pathlib import Path
import numpy as np
from medfocus import Engine
from medfocus.engine.runtime import request_batcher

engine = Engine.load(sys.argv[1], sys.argv[2], "cpu")
images = [np.full((32, 32, 3), value, np.uint8) for value in range(32)]
expected = [prediction.label for prediction in engine.classify(images[:2], strict=True)]
pages = int(Path("/proc/self/statm").read_text().split()[0])
size = pages * resource.getpagesize() + 150 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
request_batcher._NEXT = request_batcher._ALL = 600.0  # all in one batch, on a busy machine too
predictions = engine.classify(images)
print(json.dumps({
    "errors": [str(p.error) for p in predictions if p.error],
    "same": [p.label for p in predictions[:2]] == expected,
}))
"""


OTHERS = [pytest.param(name, marks=pytest.mark.long) for name in ("onnxruntime", "torch")]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino", *OTHERS])
def test_a_batch_that_does_not_fit_runs_in_halves(
    exported_engine: Path, tmp_path: Path, backend: str
) -> None:
    engine = tmp_path / "engine"
    shutil.copytree(exported_engine, engine, copy_function=os.link)
    for name in (FILE_NAME, DIGEST_NAME):
        (engine / name).unlink()
    manifest = read_engine_directory(exported_engine).manifest
    write_manifest(engine, replace(manifest, buckets=(1, 32)))
    command = [sys.executable, "-c", PROGRAM, str(engine), backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "out of memory: at most 16 " in done.stderr
    assert json.loads(done.stdout) == {"errors": [], "same": True}
