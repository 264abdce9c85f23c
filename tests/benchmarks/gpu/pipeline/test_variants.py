"""The pipeline's variants answer as the pipeline does; on the CPU, without streams and graphs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medfocus.benchmarks.gpu.pipeline.variants import (
    KINDS,
    CopyStreamBuffers,
    OneGraphBuffers,
)
from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.backends.torch.backend import TorchBackend
from medfocus.engine.backends.torch.batch_buffers import TorchBatchBuffers
from medfocus.engine.backends.torch.device_images import DeviceImages
from medfocus.engine.runtime.image_request import ImageRequest
from tests.engine.backends.torch.test_batch_buffers import run, shown

calls: list[str] = []


@pytest.fixture(autouse=True)
def streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorders in place of CUDA's streams, of uploading and of segmenting."""
    calls.clear()

    @contextmanager
    def on(name: str) -> Iterator[None]:
        calls.append(f"on {name}")
        yield
        calls.append(f"off {name}")

    main = SimpleNamespace(wait_stream=lambda name: calls.append(f"wait for {name}"))
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: main)
    monkeypatch.setattr(CopyStreamBuffers, "copies", "copies", raising=False)
    for kind, name in ((DeviceImages, "preprocess"), (TorchBackend, "segment_tensors")):
        monkeypatch.setattr(kind, name, recorded(name, getattr(kind, name)))


def recorded(name: str, function: object) -> object:
    def call(*arguments: object) -> object:
        calls.append(name)
        return function(*arguments)  # type: ignore[operator]

    return call


@pytest.mark.parametrize("name", list(KINDS))
def test_a_variant_answers_as_the_pipeline_does(engine_directory: Path, name: str) -> None:
    directory = read_engine_directory(engine_directory)
    backend, manifest = TorchBackend(directory, "cpu"), directory.manifest
    requests = [ImageRequest(image, manifest.prompts) for image in shown((80, 90), (64, 50))]
    found, expected = (
        kind(backend, manifest, 2, "cpu") for kind in (KINDS[name], TorchBatchBuffers)
    )
    run(expected, requests)
    calls.clear()
    run(found, requests)
    for row in range(2):
        for one, other in zip(
            vars(found.outputs(row)).values(), vars(expected.outputs(row)).values(), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    plain = ["preprocess", "segment_tensors"]
    copying = ["on copies", "preprocess", "off copies", "wait for copies", "segment_tensors"]
    assert calls == (copying if KINDS[name] is CopyStreamBuffers else plain)


def test_one_graph_holds_both_stages(engine_directory: Path) -> None:
    directory = read_engine_directory(engine_directory)
    backend, manifest = TorchBackend(directory, "cpu"), directory.manifest
    buffers = OneGraphBuffers(backend, manifest, 2, "cpu")
    request = ImageRequest(shown((80, 90))[0], manifest.prompts)
    buffers.begin([request])
    buffers.prepare(0)
    buffers.segment()
    before = buffers._probabilities.device.clone()
    assert before[0].sum() == pytest.approx(1, abs=1e-5)
    buffers.classify()  # copies the answers
    assert torch.equal(buffers._probabilities.host[0], before[0])
