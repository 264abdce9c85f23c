"""Whether padding CLIP's tokens to a multiple of 8 makes exported graphs faster on a CPU.

    python -m medfocus.benchmarks.token_padding -o benchmarks/results/cpu/token_padding.json

197 tokens become 200, the three new keys hidden by a finite bias; random weights, whose values do
not matter here. On CUDA, where fused attention wants such lengths, this was not measured.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from medfocus.export.onnx_graph import CLASSIFIER_INPUTS, classifier_onnx, save_checked
from medfocus.models.architectures import build_vision_tower
from medfocus.models.clip import FocusCLIP
from medfocus.models.focus import HIDDEN
from medfocus.models.graphs import ClassifierGraph
from medfocus.models.head import uniform_strength
from medfocus.models.presets import CLIP_MEAN, CLIP_STD, PRESETS
from medfocus.settings import Focus

MULTIPLE, MASK, BATCH, ROUNDS = 8, 256, 4, 15


class PaddedCLIP(FocusCLIP):
    """With tokens that nothing attends to, up to a multiple of 8."""

    def forward(self, image: Tensor, key_bias: Tensor | None = None) -> Tensor:
        """See `FocusCLIP.forward`; a bias is needed."""
        assert key_bias is not None
        more = -key_bias.shape[-1] % MULTIPLE
        return super().forward(image, F.pad(key_bias, (0, more), value=HIDDEN))

    def embed_patches(self, image: Tensor) -> Tensor:
        """See `FocusCLIP.embed_patches`; more tokens, all 0, at the end."""
        tokens = super().embed_patches(image)
        return F.pad(tokens, (0, 0, 0, -tokens.shape[1] % MULTIPLE))


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(prog="python -m medfocus.benchmarks.token_padding")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    rows = measure()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


def measure() -> list[dict[str, Any]]:
    """A row a runtime: milliseconds plain and padded, and the paired ratio."""
    torch.manual_seed(0)
    tower = PRESETS["base"].clip
    plain = FocusCLIP(build_vision_tower(tower)).eval()
    padded = PaddedCLIP(build_vision_tower(tower)).eval()
    padded.load_state_dict(plain.state_dict())
    size, grid = plain.image_size, plain.grid
    draw = np.random.default_rng(1)
    weights = draw.random((2, BATCH, grid, MASK), np.float32)
    weights /= weights.sum(-1, keepdims=True)
    feed = dict(
        zip(
            CLASSIFIER_INPUTS,
            (
                draw.standard_normal((BATCH, 3, size, size), np.float32),
                draw.standard_normal((BATCH, MASK, MASK), np.float32),
                *weights,
            ),
            strict=True,
        )
    )
    with tempfile.TemporaryDirectory() as place:
        paths = [Path(place, name) for name in ("plain.onnx", "padded.onnx")]
        for clip, path in zip((plain, padded), paths, strict=True):
            graph = ClassifierGraph(
                clip,
                Focus(),
                torch.randn(4, clip.embedding_size),
                torch.tensor(30.0),
                uniform_strength(clip.layers),
                CLIP_MEAN,
                CLIP_STD,
            ).eval()
            save_checked(classifier_onnx(graph, MASK), path)
        return [
            _row("onnxruntime, fp32", [_onnxruntime(path) for path in paths], feed),
            _row("openvino, fp32", [_openvino(path, "f32") for path in paths], feed),
            _row("openvino, bf16", [_openvino(path, "bf16") for path in paths], feed),
        ]


Run = Callable[[dict[str, Any]], Any]


def _onnxruntime(path: Path) -> Run:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(["embedding"], feed)[0]


def _openvino(path: Path, hint: str) -> Run:
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    request = compiled.create_infer_request()
    return lambda feed: np.array(request.infer(feed)["embedding"])


def _row(name: str, runs: list[Run], feed: dict[str, Any]) -> dict[str, Any]:
    outputs = [run(feed) for run in runs]
    seconds = np.zeros((ROUNDS, 2))
    for number in track(range(ROUNDS), name):
        for place in (number % 2, 1 - number % 2):
            begun = time.perf_counter()
            runs[place](feed)
            seconds[number, place] = time.perf_counter() - begun
    quartiles = np.quantile(seconds[:, 1] / seconds[:, 0], (0.25, 0.5, 0.75))
    return {
        "runtime": name,
        "batch": BATCH,
        "milliseconds": [round(1e3 * float(value), 1) for value in np.median(seconds, 0)],
        "padded_over_plain": [round(float(value), 3) for value in quartiles],
        "largest_difference": float(np.abs(outputs[0] - outputs[1]).max()),
    }


if __name__ == "__main__":
    main()
