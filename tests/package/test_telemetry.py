"""Runtimes that were imported before medfocus send nothing more; test_nothing_phones_home.py has
what happens to those imported later."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# With the real package, whose messages are caught before they reach the network.
PROGRAM = """
import sys
from types import SimpleNamespace
from openvino_telemetry import Telemetry

settings = dict(app_name="a", app_version="1", tid="t", backend="ga4", enable_opt_in_dialog=True)
telemetry, sent = Telemetry(**settings), []
telemetry.sender.send = lambda *message: sent.append(message)
telemetry.consent = True
telemetry.send_event("category", "action", "label")
assert len(sent) == 1
calls = []
sys.modules["onnxruntime"] = SimpleNamespace(disable_telemetry_events=lambda: calls.append(1))

import medfocus

assert calls == [1]
for attempt in range(2):
    telemetry.start_session("category")
    telemetry.send_event("category", "action", "label")
    telemetry.send_error("category", "message")
    telemetry.consent = True
assert len(sent) == 1
try:
    import openvino_telemetry
except ModuleNotFoundError:
    print("not importable")
"""


def test_a_runtime_that_was_imported_earlier_sends_nothing_more(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment
    )
    if "No module named 'openvino_telemetry'" in found.stderr:
        pytest.skip("openvino-telemetry is not installed")
    assert found.stdout == "not importable\n", found.stderr
    assert not [*tmp_path.iterdir()]
