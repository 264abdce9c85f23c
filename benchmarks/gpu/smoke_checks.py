"""What `make gpu-smoke` tests: each kernel, the CUDA graphs, a stream of images."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from medfocus.benchmarks.bench.kernels.compare import relative_error
from medfocus.benchmarks.bench.kernels.shapes import Build, comparisons
from medfocus.errors import DeviceError

IMAGES, BATCH = 64, 16
# |ours - exact| / |exact|: bfloat16 keeps 8 bits of each number, float32 24.
MOST_ERROR = {torch.bfloat16: 1e-2, torch.float32: 1e-5}
ENCODER, MOST_OF_ENCODER = "hard focus", 3e-2  # 24 layers, each rounded: 1.3e-2 on a CPU
LEAST_COSINE = 0.99  # of an image's embeddings in bf16 and in float32
# The tensors that a stage fills. There is no public way to ask for them.
RESULTS = {"segment": ("_logits", "_score"), "classify": ("_probabilities", "_embedding")}


def checks_of(device: str) -> dict[str, Callable[[], str]]:
    """All tests by name, the longest first."""
    tests: dict[str, Callable[[], str]] = {
        f"stream of {IMAGES} images": partial(stream_test, "base", device),
        "CUDA graphs": partial(graphs_test, "base", device),
    }
    for part, builds in comparisons().items():
        for build in builds:
            assert isinstance(build, partial)
            sizes = " ".join(str(each) for each in build.args if isinstance(each, int | str))
            tests[f"{part}: {build.func.__name__} {sizes.removesuffix(' cuda')}"] = partial(
                kernel_test, build
            )
    return tests


@torch.no_grad()
def kernel_test(build: Build) -> str:
    """Ours once, compared with float64.

    Raises:
        DeviceError: it fell back to PyTorch, or its error is one that no rounding explains.
    """
    comparison = build()
    ours = comparison.implementations[0]
    error = relative_error(ours.answer(ours.build()()), comparison.exact())
    path = ours.path()
    limit = MOST_OF_ENCODER if comparison.kernel == ENCODER else MOST_ERROR[comparison.dtype]
    if path != "triton":
        raise DeviceError(comparison.kernel, f"ran as {path}", "see kernels/dispatch.py")
    if not error <= limit:
        problem = f"has an error of {error:.1e}, more than {limit:.0e}"
        raise DeviceError(comparison.kernel, problem, "run its tests: pytest tests/kernels")
    return f"error {error:.1e}"


@torch.inference_mode()
def graphs_test(name: str, device: str) -> str:
    """Each stage's CUDA graph compared with the stage run eagerly, on the same batch.

    Raises:
        DeviceError: a graph was not captured, or answers otherwise.
    """
    from medfocus.benchmarks.gpu.pipeline.engine import (
        measured_engine,
        pictures_of,
        random_directory,
    )

    pictures, error = pictures_of(4), 0.0
    count = len(pictures)
    with tempfile.TemporaryDirectory() as folder:
        directory = random_directory(name, Path(folder, "engine"), device, count)
        with measured_engine(directory, device, pictures) as ready:
            buffers = ready.buffers
            for stage, names in RESULTS.items():
                if device == "cuda" and (stage, count) not in ready.graphs:
                    raise DeviceError(stage, "was not captured", "see the log")
                results = [getattr(buffers, each).device[:count] for each in names]
                answers = []
                for work in (buffers.run, buffers._eager):
                    for tensor in results:
                        tensor.fill_(float("nan"))
                    work(stage, count)  # type: ignore[arg-type]
                    answers.append([tensor.clone() for tensor in results])
                error = max(error, *map(relative_error, *answers))
    if not error <= MOST_ERROR[torch.bfloat16]:
        raise DeviceError("CUDA graphs", f"differ from eager runs by {error:.1e}", "see the log")
    return f"{len(ready.graphs)} graphs, error {error:.1e}"


def stream_test(name: str, device: str) -> str:
    """A stream of images, compared with the engine in float32 on the same device.

    Raises:
        DeviceError: images without an answer, or answers that bf16 does not explain.
    """
    from medfocus.benchmarks.gpu.pipeline.engine import (
        measured_engine,
        pictures_of,
        random_directory,
    )

    pictures = pictures_of(BATCH)
    shown = [pictures[number % BATCH] for number in range(IMAGES)]
    with tempfile.TemporaryDirectory() as folder:
        directory = random_directory(name, Path(folder, "engine"), device, BATCH)
        with measured_engine(directory, device, pictures) as ready:
            found = list(ready.engine.stream(shown, embeddings=True))
        exact = replace(directory, manifest=replace(directory.manifest, backends={"torch": "fp32"}))
        with measured_engine(exact, device, pictures) as ready:
            expected = ready.engine.classify(pictures, embeddings=True)
    failed = [answer.error for answer in found if answer.error is not None]
    if failed or len(found) != IMAGES:
        raise DeviceError("stream", f"{len(failed)} images failed ({failed[:1]})", "see the log")
    cosines = [
        _cosine(answer.embedding, expected[number % BATCH].embedding)
        for number, answer in enumerate(found)
    ]
    if not min(cosines) >= LEAST_COSINE:
        raise DeviceError("stream", f"the least cosine is {min(cosines):.4f}", "see the log")
    return f"least cosine {min(cosines):.5f}"


def _cosine(left: object, right: object) -> float:
    a, b = np.asarray(left, np.float64), np.asarray(right, np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
