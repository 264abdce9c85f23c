"""Switches off the telemetry of packages that medfocus loads.

What each does otherwise, and its own switch:

- onnxruntime, from 1.29 on: a device id and a database of events in the user's cache folder, and
  uploads. A variable that is read when it is imported.
- openvino: a client id in the home folder, and a message for each import, sent by the package
  openvino_telemetry. A file in the home folder, which is not ours to write.
- nncf: the same for each call. That file, or a variable.
- huggingface_hub: names programs and versions when something is downloaded. A variable.
"""

import os
import sys
from typing import Any

VARIABLES = {
    "ORT_DISABLE_TELEMETRY": "1",
    "NNCF_CI": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}


def switch_off() -> None:
    """Switch telemetry off for this process and the processes that it starts; nothing is written.

    It is called when medfocus is imported, thus before anything of medfocus can import a runtime.
    Of a runtime that the application imported earlier, what follows is switched off.
    """
    os.environ.update(VARIABLES)
    if runtime := sys.modules.get("onnxruntime"):
        runtime.disable_telemetry_events()
    modules: dict[str, Any] = sys.modules
    if loaded := modules.get("openvino_telemetry"):
        # Consent is an attribute of its one object, which asks it before each message.
        loaded.Telemetry.consent = property(lambda _: False, lambda *_: None)
    # Not importable, as if it were not installed: OpenVINO and NNCF are made to do without.
    modules["openvino_telemetry"] = None
