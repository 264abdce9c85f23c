"""A small engine on each backend of a CPU: its time, and its answers compared with float32."""

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from medfocus.benchmarks.baselines.engine_models import reference_models
from medfocus.benchmarks.baselines.implementations import engine_implementations
from medfocus.benchmarks.baselines.models import Models
from medfocus.benchmarks.bench.agreement import worst_cosine
from medfocus.engine import Engine
from medfocus.engine.artifact.directory import EngineDirectory, read_engine_directory
from medfocus.export.config import ExportConfig
from medfocus.export.engine_directory import build
from medfocus.export.validate.images import phantoms
from tests.conftest import random_bundle

IMAGES = phantoms(8)
BACKENDS = ("torch", "onnxruntime", "openvino")


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> EngineDirectory:
    path = tmp_path_factory.mktemp("engines") / "random"
    config = ExportConfig("fp32", ("torch", "onnx", "openvino"), buckets=(1, 8))
    build(path, random_bundle(), config, phantoms(8))
    return read_engine_directory(path)


@pytest.fixture(scope="session")
def reference(directory: EngineDirectory) -> Models:
    return reference_models(directory)


@pytest.mark.parametrize("backend", BACKENDS)
def bench_segmenter(
    benchmark: BenchmarkFixture, directory: EngineDirectory, reference: Models, backend: str
) -> None:
    (engine,) = engine_implementations([directory], (backend,), "cpu")
    found = benchmark(engine.load().segment, IMAGES)
    assert np.abs(found - reference.segment(IMAGES)).max() < 2e-3


@pytest.mark.parametrize("backend", BACKENDS)
def bench_classifier(
    benchmark: BenchmarkFixture, directory: EngineDirectory, reference: Models, backend: str
) -> None:
    logits = reference.segment(IMAGES)
    (engine,) = engine_implementations([directory], (backend,), "cpu")
    found = benchmark(engine.load().classify, IMAGES, logits)
    assert worst_cosine(found, reference.classify(IMAGES, logits)) > 0.99999


@pytest.mark.parametrize("backend", BACKENDS)
def bench_one_image(benchmark: BenchmarkFixture, directory: EngineDirectory, backend: str) -> None:
    engine = Engine.load(directory.path, backend, "cpu")
    (found,) = benchmark(engine.classify, [IMAGES[0].pixels])
    assert found.error is None
    engine.close()
