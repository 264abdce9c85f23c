"""The TensorRT backend, on a stand-in for TensorRT that computes with ONNX Runtime."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfocus.engine import Engine, Prediction
from medfocus.engine.artifact.directory import EngineDirectory, read_engine_directory
from medfocus.engine.artifact.manifest import DIGEST_NAME, FILE_NAME, Manifest
from medfocus.engine.artifact.precision import ComputePrecision
from medfocus.engine.artifact.writing import write_manifest
from medfocus.engine.backends.tensorrt.backend import TensorRTBackend
from medfocus.engine.backends.tensorrt.memory import Buffer
from medfocus.engine.backends.torch.backend import TorchBackend
from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import NO_REGION
from medfocus.engine.preprocess.prompts import own_prompt
from medfocus.engine.runtime import cuda
from medfocus.engine.runtime.execution import ThreadStream
from medfocus.engine.runtime.image_request import ImageRequest
from medfocus.engine.runtime.memory import free_on_gpu
from medfocus.errors import DeviceError, EngineDirectoryError, InputError
from medfocus.export.tensorrt.build_plans import build_plans
from medfocus.export.tensorrt.profiles import MOST_POINTS
from tests.engine.test_engine import pictures
from tests.errors import refuses
from tests.tensorrt_api import library
from tests.tensorrt_api.device import Device
from tests.tensorrt_api.installed import installed

FOLDER = "plans/sm90-11.4.0.106"
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def with_plans(exported_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> EngineDirectory:
    """A complete engine directory with graphs and plans; not to be changed."""
    path = tmp_path_factory.mktemp("engines") / "planned"
    shutil.copytree(exported_engine, path)
    directory = read_engine_directory(path)
    with installed(path.parent / "cache"):
        build_plans(path, (1, 3), directory.manifest.prompts)
    backends: dict[str, ComputePrecision] = {"torch": "fp32", "tensorrt": "fp32"}
    return listed_again(path, replace(directory.manifest, backends=backends))


def listed_again(path: Path, manifest: Manifest) -> EngineDirectory:
    """The engine, with a manifest of the files that are there now."""
    for name in (FILE_NAME, DIGEST_NAME):
        (path / name).unlink()
    write_manifest(path, replace(manifest, buckets=(1, 3), files={}))
    return read_engine_directory(path)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with installed(tmp_path) as made:
        yield made


def segmenter_inputs(images: int, prompts: int = 9, points: int = 1) -> Arrays:
    random = np.random.default_rng(images)
    return {
        "image": random.standard_normal((images, 3, 256, 256), np.float32),
        "points": random.uniform(0, 256, (images, prompts, points, 2)).astype(np.float32),
        "labels": np.ones((images, prompts, points), np.int32),
    }


def classifier_inputs(images: int) -> Arrays:
    random = np.random.default_rng(images)
    weights = random.uniform(size=(2, images, 14, 64)).astype(np.float32)
    return {
        "image": random.standard_normal((images, 3, 112, 112), np.float32),
        "focus_logits": 6 * random.standard_normal((images, 64, 64), np.float32),
        "rows": weights[0] / weights[0].sum(-1, keepdims=True),
        "cols": weights[1] / weights[1].sum(-1, keepdims=True),
    }


@pytest.mark.slow
def test_it_agrees_with_the_torch_backend(with_plans: EngineDirectory, device: Device) -> None:
    ours, theirs = TensorRTBackend(with_plans, "auto"), TorchBackend(with_plans, "cpu")
    assert (ours.name, ours.device) == ("tensorrt", "cuda")
    # Up and down between the buckets' profiles, and back.
    for images in (3, 1, 2, 1, 3):
        for prompts, points in ((9, 1), (1, 2)):
            inputs = segmenter_inputs(images, prompts, points)
            found, expected = ours.segment(**inputs), theirs.segment(**inputs)
            for a, b in zip(found, expected, strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-4)
        found_all: tuple[Any, ...] = ours.classify(**classifier_inputs(images))
        expected_all: tuple[Any, ...] = theirs.classify(**classifier_inputs(images))
        for ours_one, theirs_one in zip(found_all, expected_all, strict=True):
            assert ours_one.dtype == theirs_one.dtype
            np.testing.assert_allclose(ours_one, theirs_one, atol=1e-4, rtol=1e-4)
    ours.close()
    assert not device.allocated, "all memory is freed"
    assert not device.streams


@pytest.mark.slow
def test_buffers_are_allocated_once(with_plans: EngineDirectory, device: Device) -> None:
    backend = TensorRTBackend(with_plans, "cuda")
    backend.classify(**classifier_inputs(3))
    allocations = device.allocations
    for images in (1, 2, 3):
        backend.classify(**classifier_inputs(images))
    assert device.allocations == allocations


@pytest.mark.slow
def test_each_graph_has_its_own_stream(with_plans: EngineDirectory, device: Device) -> None:
    backend = TensorRTBackend(with_plans, "cuda")
    assert len(device.streams) == 2
    assert 0 not in device.streams
    backend.close()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "ordinal"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_gpu_is_used_in_every_thread_and_no_other_is_touched(
    with_plans: EngineDirectory, device: Device, name: str, ordinal: int
) -> None:
    """The stand-in asserts that memory and streams are used where their GPU is current."""
    elsewhere = cuda.Gpu(1 - ordinal)
    with elsewhere.current():  # as if the application used the other one in this thread
        backend = TensorRTBackend(with_plans, name)
        assert device.current == 1 - ordinal
    assert (backend.device, backend.ordinal) == ("cuda", ordinal)
    inputs = classifier_inputs(3)
    expected = backend.classify(**inputs)[1]
    other = ThreadStream("other")
    found: list[np.ndarray] = []

    def in_a_thread() -> None:
        with elsewhere.current():
            found.append(backend.classify(**inputs)[1])
        assert device.contexts == []

    other.submit(in_a_thread).wait()
    other.close()
    np.testing.assert_array_equal(found[0], expected)
    free = [free_on_gpu(gpu) for gpu in range(2)]
    assert free[1 - ordinal] == device.memory > free[ordinal]
    backend.close()
    assert set(device.owner.values()) == {ordinal}
    assert not device.allocated
    assert device.contexts == []


def assert_same_answers(found: list[Prediction], expected: list[Prediction]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.error, ours.label, ours.focused) == (None, theirs.label, theirs.focused)
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-4)
        for name in ("focus_logits", "patch_focus", "embedding"):
            one, other = getattr(ours, name), getattr(theirs, name)
            np.testing.assert_allclose(one, other, atol=1e-3, rtol=1e-4)


@pytest.mark.slow
def test_an_engine_answers_as_on_the_cpu(with_plans: EngineDirectory, device: Device) -> None:
    """Full batches and others, the zero-shot prompts and callers' own, in turns, on one GPU."""
    shown = [np.roll(image, 7, 0) for image in pictures(8)]
    boxes = [None] * 4 + [(4, 6, 30, 28)] * 2 + [None] * 2
    points = [None] * 6 + [[(20, 12), (9, 9, 0), (25, 25)]] * 2
    on_cpu = Engine.load(with_plans.path, "torch", "cpu")
    expected = on_cpu.classify(shown, boxes=boxes, points=points, embeddings=True, strict=True)
    with Engine.load(with_plans.path, "tensorrt", "cuda:1") as engine:
        assert device.graphs
        device.copied.clear()
        for _ in range(2):
            found = engine.classify(shown, boxes=boxes, points=points, embeddings=True)
            assert_same_answers(found, expected)
        assert device.launched > 0
        assert all(pinned for _, _, pinned in device.copied)
        uploads = [
            size
            for kind, size, _ in device.copied
            if kind == device.cudaMemcpyKind.cudaMemcpyHostToDevice
        ]
        masks = 4 * 64 * 64
        assert masks not in uploads
        assert max(uploads) == 4 * 3 * 256**2, "an image, when it is ready, and not a batch"
    on_cpu.close()
    assert set(device.owner.values()) == {1}
    left = (device.allocated, device.pinned, device.streams, device.events, device.graphs)
    assert not any(left)


@pytest.mark.slow
def test_a_full_batch_is_two_graphs_and_an_unusual_prompt_none(
    with_plans: EngineDirectory, device: Device
) -> None:
    backend, manifest = TensorRTBackend(with_plans, "cuda"), with_plans.manifest
    box = own_prompt((4, 6, 30, 28), None, 33, 57, "image")
    with closing(backend), closing(backend.buffer_pool(manifest, 3)) as pool:
        for count, prompts, graphs in (
            (3, manifest.prompts, 2),
            (2, manifest.prompts, 2),  # in the graphs of three
            (1, manifest.prompts, 2),
            (2, box, 1),
        ):
            images = [SourceImage(image, "image") for image in pictures(7)[-count:]]
            before = device.launched
            pool.run(pool.buffers[0], [ImageRequest(image, prompts) for image in images])
            assert device.launched - before == graphs


@pytest.mark.slow
def test_what_cannot_be_captured_runs_without_a_graph(
    with_plans: EngineDirectory, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    device.refuses_capture = True
    shown = pictures(3)
    with (
        Engine.load(with_plans.path, "tensorrt", "cuda") as engine,
        Engine.load(with_plans.path, "torch", "cpu") as on_cpu,
    ):
        assert sum("graph" in message for message in caplog.messages) == 2, "once per plan"
        found, expected = (one.classify(shown, embeddings=True) for one in (engine, on_cpu))
        assert_same_answers(found, expected)
    assert device.launched == 0


@pytest.mark.slow
def test_without_a_focus_there_is_none(with_plans: EngineDirectory, device: Device) -> None:
    """Plain CLIP: the segmenter does not run, and the masks on the GPU say that."""
    focus = replace(with_plans.manifest.focus, mode="none")
    manifest = replace(with_plans.manifest, focus=focus)
    backend = TensorRTBackend(with_plans, "cuda")
    with closing(backend), closing(backend.buffer_pool(manifest, 1)) as pool:
        image = SourceImage(pictures(1)[0], "image")
        (found,) = pool.run(pool.buffers[0], [ImageRequest(image, manifest.prompts)])
    assert (found.focused, found.score) == (False, 0.0)
    assert found.focus_logits is not None
    assert (found.focus_logits == NO_REGION).all()


def test_a_gpu_that_is_not_there_is_an_error_that_counts_them(
    engine_directory: Path, device: Device
) -> None:
    with refuses(InputError, "device.unavailable", "device cuda:2") as caught:
        TensorRTBackend(read_engine_directory(engine_directory), "cuda:2")
    assert "2 CUDA devices" in caught.value.problem
    device.gpus = 0
    with refuses(InputError, "device.unavailable", "device cuda"):
        TensorRTBackend(read_engine_directory(engine_directory), "cuda")


@pytest.mark.slow
def test_outputs_are_copies(with_plans: EngineDirectory, device: Device) -> None:
    backend = TensorRTBackend(with_plans, "cuda")
    first = backend.classify(**classifier_inputs(2))[1]
    before = first.copy()
    reverse = {name: array[::-1] for name, array in classifier_inputs(2).items()}  # not contiguous
    second = backend.classify(**reverse)[1]
    assert (first == before).all()
    np.testing.assert_allclose(second, first[::-1], atol=1e-6)
    assert np.abs(first[0] - first[1]).max() > 1e-3, "or nothing is compared"


@pytest.mark.slow
def test_a_shape_that_was_not_built_for_is_an_error(
    with_plans: EngineDirectory, device: Device
) -> None:
    backend = TensorRTBackend(with_plans, "cuda")
    for inputs in (segmenter_inputs(4), segmenter_inputs(1, 10), segmenter_inputs(1, 1, 17)):
        with refuses(InputError, "input.shape_not_built"):
            backend.segment(**inputs)
    backend.segment(**segmenter_inputs(1, 1, MOST_POINTS))  # it still works


@pytest.mark.slow
def test_plans_of_another_gpu_or_version_are_named(
    with_plans: EngineDirectory, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.capability = (8, 9)
    with refuses(EngineDirectoryError, "engine.no_plans", "plans/sm89-11.4.0.106") as caught:
        TensorRTBackend(with_plans, "cuda")
    assert FOLDER in caught.value.problem
    device.capability = (9, 0)
    monkeypatch.setattr(library, "__version__", "11.5.0.1")
    with refuses(EngineDirectoryError, "engine.no_plans", "plans/sm90-11.5.0.1"):
        TensorRTBackend(with_plans, "cuda")


def test_an_engine_without_plans_says_so(engine_directory: Path, device: Device) -> None:
    with refuses(EngineDirectoryError, "engine.no_plans"):
        TensorRTBackend(read_engine_directory(engine_directory), "cuda")


def broken(with_plans: EngineDirectory, target: Path) -> EngineDirectory:
    """The engine with a plan that TensorRT cannot load, and a manifest that matches it."""
    shutil.copytree(with_plans.path, target)
    (target / FOLDER / "classifier.plan").write_bytes(b"no plan")
    return listed_again(target, with_plans.manifest)


@pytest.mark.slow
def test_a_plan_that_cannot_be_loaded_is_an_error_with_tensorrts_message(
    with_plans: EngineDirectory, device: Device, tmp_path: Path
) -> None:
    item = f"{FOLDER}/classifier.plan"
    with refuses(EngineDirectoryError, "engine.not_loadable", item) as caught:
        TensorRTBackend(broken(with_plans, tmp_path / "engine"), "cuda")
    assert "the plan's header is wrong" in caught.value.problem


@pytest.mark.slow
def test_a_plan_that_was_changed_is_never_loaded(
    with_plans: EngineDirectory, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(with_plans.path, tmp_path / "engine")
    directory = read_engine_directory(tmp_path / "engine")
    plan = directory.file(f"{FOLDER}/segmenter.plan")
    plan.write_bytes(plan.read_bytes()[::-1])
    monkeypatch.delattr(library, "ICudaEngine")  # so loading would fail in another way
    with refuses(EngineDirectoryError, "engine.changed", "segmenter.plan"):
        TensorRTBackend(directory, "cuda")


@pytest.mark.slow
def test_failures_on_the_device_are_errors(
    with_plans: EngineDirectory, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = TensorRTBackend(with_plans, "cuda")

    def fails(self: Any, stream_handle: int) -> bool:
        self._engine._logger.log(library.ILogger.ERROR, "an illegal access")
        return False

    monkeypatch.setattr(library.IExecutionContext, "execute_async_v3", fails)
    with refuses(DeviceError, "device.failed", "classifier.plan") as caught:
        backend.classify(**classifier_inputs(1))
    assert "an illegal access" in caught.value.problem
    device.memory = 0
    with refuses(DeviceError, "device.failed", "CUDA") as caught:
        backend.segment(**segmenter_inputs(1))
    assert "cudaMalloc failed: cudaErrorMemoryAllocation" in caught.value.problem


def test_the_cpu_is_refused(engine_directory: Path, device: Device) -> None:
    with refuses(InputError, "device.unavailable", "device cpu"):
        TensorRTBackend(read_engine_directory(engine_directory), "cpu")


def test_a_buffer_is_reallocated_only_to_grow(device: Device) -> None:
    buffer = Buffer()
    first = buffer.reserve(100)
    assert buffer.reserve(50) == first
    assert buffer.reserve(100) == first
    buffer.reserve(101)
    assert len(device.allocated) == 1
    assert device.allocations == 2
    buffer.close()
    buffer.close()
    assert not device.allocated


def test_cuda_without_bindings_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with refuses(InputError, "backend.not_installed", "CUDA") as caught:
        cuda.call("cudaGetDevice")
    assert caught.value.hint == "pip install cuda-bindings"
