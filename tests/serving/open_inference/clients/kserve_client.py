"""KServe's own client against a service: its answers as JSON on stdout.

Run in an environment of its own, see test_kserve_client.py: `kserve_client.py HTTP GRPC FOLDER`.
"""

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from kserve import (
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)
from kserve.protocol.infer_type import RequestedOutput


def request(files: list[bytes], binary: bool | None) -> InferRequest:
    """With binary tensors in the request and the answer, or none; None for gRPC's typed ones."""
    images = InferInput("images", [len(files)], "BYTES")
    if binary is None:
        images = InferInput("images", [len(files)], "BYTES", data=files)
    elif binary:
        images.set_data_from_numpy(np.array(files, dtype=object), binary_data=True)
    else:
        texts = [base64.b64encode(data) for data in files]
        images.set_data_from_numpy(np.array(texts, dtype=object), binary_data=False)
    outputs = [
        RequestedOutput(name, {"binary_data": binary} if binary is not None else None)
        for name in ("prediction", "probabilities", "focused")
    ]
    return InferRequest("tiny", [images], request_id="1", request_outputs=outputs)


def outputs(response: Any) -> dict[str, Any]:
    """Rows by name."""
    found = {}
    for output in response.outputs:
        rows = output.as_numpy().tolist()
        found[output.name] = [row.decode() if isinstance(row, bytes) else row for row in rows]
    return found


async def main(http: str, grpc: str, folder: Path) -> None:
    """Print the answers, by how they were asked for."""
    files = [path.read_bytes() for path in sorted(folder.iterdir())]
    rest = InferenceRESTClient(RESTConfig(protocol="v2"))
    base = f"http://{http}"
    assert await rest.is_server_live(base)
    assert await rest.is_server_ready(base)
    assert await rest.is_model_ready(base, "tiny")
    found = {}
    for binary in (True, False):
        answer = await rest.infer(base, request(files, binary), model_name="tiny")
        found[f"http, binary {binary}"] = outputs(answer)
    async with InferenceGRPCClient(grpc) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("tiny")
        for how in (True, None):
            found[f"grpc, raw {how}"] = outputs(await client.infer(request(files, how)))
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
