"""Requests that Schemathesis makes from the description of the interface.

None fails, and each answer is as described.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.process import ServiceProcess

# 503 is the answer of what is asked whether it is ready, and is not.
CONFIG = """
hooks = "{hooks}"
[checks]
not_a_server_error.expected-statuses = ["2xx", "4xx", "503"]
[[operations]]
include-path-regex = "/[{{]name[}}]"
parameters = {{ "path.name" = "tiny" }}
"""
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
)


@pytest.mark.parametrize("examples", [3, pytest.param(200, marks=pytest.mark.long)])
def test_requests_made_from_the_description(
    service: ServiceProcess, tmp_path: Path, examples: int
) -> None:
    hooks = Path(__file__).with_name("dicom_serializers.py")
    (tmp_path / "schemathesis.toml").write_text(CONFIG.format(hooks=hooks))
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run"),
        f"{service.client.base_url}/openapi.json".replace("//openapi", "/openapi"),
        f"--checks={','.join(CHECKS)}",
        "--exclude-path-regex=load$",  # it would unload the engine of other tests
        "--phases=coverage,fuzzing",
        f"--max-examples={examples}",
        "--seed=24",
        "--generation-database=none",
        "--no-color",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
