"""The engine behind LitServe, as its documentation has a model served in batches.

Run by an interpreter that has litserve: the directory and the port. Says "ready" once it answers.
"""

import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import litserve
from fastapi import UploadFile

from medfocus.engine import Engine, Prediction


class MedFocus(litserve.LitAPI):  # type: ignore[misc]
    """Batches of files to predictions.

    Args:
        directory: of the engine.
        options: of LitServe.
    """

    def __init__(self, directory: str, **options: Any) -> None:
        super().__init__(**options)
        self.directory = directory

    def setup(self, device: str) -> None:
        """Load the engine, in the worker."""
        self.engine = Engine.load(self.directory)

    def decode_request(self, request: UploadFile) -> bytes:
        """The file of the form's field `request`."""
        return request.file.read()

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """As they are: the engine takes files."""
        return inputs

    def predict(self, inputs: list[bytes]) -> list[Prediction]:
        """One prediction per file."""
        return self.engine.classify(inputs, keep_masks=False)

    def unbatch(self, output: list[Prediction]) -> list[Prediction]:
        """One per request."""
        return output

    def encode_response(self, output: Prediction) -> dict[str, Any]:
        """Plain JSON types."""
        return output.to_dict()


def say_when_ready(port: int) -> None:
    """Print "ready" once the workers have loaded the engine."""
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                print("ready", flush=True)
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)


if __name__ == "__main__":
    port = int(sys.argv[2])
    threading.Thread(target=say_when_ready, args=(port,), daemon=True).start()
    api = MedFocus(sys.argv[1], max_batch_size=32, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", timeout=120)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="error")
