"""Which backend is loaded, the errors when none can be, and that all backends agree."""

import importlib.machinery
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from medfocus.engine import Engine
from medfocus.engine.artifact.directory import EngineDirectory, read_engine_directory
from medfocus.engine.artifact.manifest import DIGEST_NAME, FILE_NAME
from medfocus.engine.artifact.precision import COMPUTE_PRECISIONS, ComputePrecision
from medfocus.engine.artifact.speed import Speed
from medfocus.engine.artifact.writing import write_manifest
from medfocus.engine.backends import registry
from medfocus.engine.backends.device import processor_name
from medfocus.engine.backends.registry import (
    BACKENDS,
    DEVICES,
    BackendEntry,
    load_backend,
    usable_backends,
)
from medfocus.errors import EngineDirectoryError, InputError
from medfocus.export.validate.images import phantoms
from tests.errors import refuses
from tests.tensorrt_api.installed import installed


@pytest.fixture
def directory(exported_engine: Path) -> EngineDirectory:
    return read_engine_directory(exported_engine)


class Missing:
    """An import finder that pretends that some modules are not installed."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for module in list(sys.modules):
        ours = module.startswith("medfocus.engine.backends.")
        if ours or module.partition(".")[0] in names:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Missing(*names), *sys.meta_path])


def with_backends(directory: EngineDirectory, **backends: Any) -> EngineDirectory:
    return replace(directory, manifest=replace(directory.manifest, backends=backends))


def test_every_backend_has_precisions_and_a_rank_on_each_of_its_devices() -> None:
    assert BACKENDS.keys() == COMPUTE_PRECISIONS.keys()
    for device in DEVICES:
        ranks = [b.rank[device] for b in BACKENDS.values() if device in b.rank]
        assert sorted(ranks) == list(range(1, len(ranks) + 1))


def test_a_new_backend_needs_an_entry_and_its_precisions_only(
    directory: EngineDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = BackendEntry("onnxruntime", "OnnxRuntimeBackend", "pip install new", {"cpu": 0})
    monkeypatch.setitem(BACKENDS, "new", entry)
    monkeypatch.setitem(COMPUTE_PRECISIONS, "new", ("fp32",))
    for name in ("new", "auto"):
        backend = load_backend(with_backends(directory, new="fp32", torch="fp32"), name, "cpu")
        assert type(backend).__name__ == "OnnxRuntimeBackend"


def with_speeds(directory: EngineDirectory, **seconds: float) -> EngineDirectory:
    """The engine as exported on this processor, where its backends took so long."""
    here = processor_name("cpu", 0) or pytest.skip("this CPU has no name")
    speeds = {name: Speed(value, "cpu", here) for name, value in seconds.items()}
    return replace(directory, manifest=replace(directory.manifest, speeds=speeds))


def tried(directory: EngineDirectory, device: str = "cpu") -> list[str]:
    """The backends that `auto` takes, in its order."""
    names = []
    for backend in usable_backends(directory, "auto", device):
        names.append(backend.name)
        backend.close()
    return names


def test_auto_takes_what_the_export_measured_to_be_fastest(directory: EngineDirectory) -> None:
    documented = ["openvino", "onnxruntime", "torch"]
    assert tried(directory) == documented
    measured = with_speeds(directory, openvino=0.2, onnxruntime=0.3, torch=0.1)
    assert tried(measured) == ["torch", "openvino", "onnxruntime"]
    # Not by figures of another processor, or of some of the backends.
    manifest = measured.manifest
    elsewhere = {name: replace(one, processor="Other") for name, one in manifest.speeds.items()}
    assert tried(replace(measured, manifest=replace(manifest, speeds=elsewhere))) == documented
    on_a_gpu = {name: replace(one, device="cuda") for name, one in manifest.speeds.items()}
    assert tried(replace(measured, manifest=replace(manifest, speeds=on_a_gpu))) == documented
    assert tried(with_speeds(directory, openvino=0.2, torch=0.1)) == documented


def test_gpus_are_told_apart_by_name(directory: EngineDirectory, tmp_path: Path) -> None:
    """Figures of the stand-in's second GPU are not used on its first."""
    speeds = {
        name: Speed(seconds, "cuda", "Stand-in 1")
        for name, seconds in (("torch", 0.3), ("onnxruntime", 0.1))
    }
    backends: dict[str, ComputePrecision] = {"torch": "fp32", "onnxruntime": "fp32"}
    manifest = replace(directory.manifest, backends=backends, speeds=speeds)
    with installed(tmp_path):
        assert registry._fastest_first(manifest, "cuda", 1) == ["onnxruntime", "torch"]
        assert registry._fastest_first(manifest, "cuda", 0) == ["torch", "onnxruntime"]
        assert processor_name("cuda", 0) == "Stand-in 0"


@pytest.mark.slow
def test_a_device_that_was_not_checked_is_logged(
    directory: EngineDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    load_backend(directory, "onnxruntime", "cpu").close()
    assert caplog.messages == []
    manifest = directory.manifest
    elsewhere = replace(manifest.parity["onnxruntime"], device="cuda")
    parity = {**manifest.parity, "onnxruntime": elsewhere}
    moved = replace(directory, manifest=replace(manifest, parity=parity))
    load_backend(moved, "onnxruntime", "cpu").close()
    (message,) = caplog.messages
    assert message.startswith("onnxruntime runs on cpu")


@pytest.mark.slow
def test_all_backends_agree(exported_engine: Path) -> None:
    images = [image.pixels for image in phantoms(5)]
    expected = Engine.load(exported_engine, "torch", "cpu").classify(images, strict=True)
    for name in ("onnxruntime", "openvino"):
        engine = Engine.load(exported_engine, name)
        assert (engine.backend, engine.device) == (name, "cpu")
        for found, wanted in zip(engine.classify(images, strict=True), expected, strict=True):
            assert found.label == wanted.label
            assert found.focused
            for label, probability in wanted.probabilities.items():
                assert found.probabilities[label] == pytest.approx(probability, abs=1e-5)
            assert found.focus_logits is not None
            assert wanted.focus_logits is not None
            assert np.abs(found.focus_logits - wanted.focus_logits).max() <= 1e-3
        engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
def test_a_directory_that_is_overwritten_changes_nothing(
    exported_engine: Path, tmp_path: Path, name: str
) -> None:
    """In place, as cp does: a file that a runtime had mapped would change under it."""
    folder = Path(shutil.copytree(exported_engine, tmp_path / "engine"))
    images = [image.pixels for image in phantoms(2)]
    with Engine.load(folder, name, "cpu", deterministic=True) as engine:
        for path in folder.iterdir():
            path.write_bytes(bytes(path.stat().st_size))
        assert str(folder) not in Path("/proc/self/maps").read_text()
        found = engine.classify(images, embeddings=True, strict=True)
    with Engine.load(exported_engine, name, "cpu", deterministic=True) as engine:
        wanted = engine.classify(images, embeddings=True, strict=True)
    assert [each.to_dict() for each in found] == [each.to_dict() for each in wanted]


@pytest.mark.slow
def test_the_next_call_does_not_change_a_prediction(exported_engine: Path) -> None:
    """Runtimes reuse their output memory."""
    one, two = (image.pixels for image in phantoms(2))
    for name in ("onnxruntime", "openvino"):
        engine = Engine.load(exported_engine, name)
        (first,) = engine.classify(one)
        assert first.focus_logits is not None
        before = first.focus_logits.copy()
        engine.classify(two)
        assert np.array_equal(first.focus_logits, before)


def test_auto_takes_the_fastest_that_is_installed(
    directory: EngineDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_backend(directory, "auto", "cpu").name == "openvino"
    hide(monkeypatch, "openvino")
    assert load_backend(directory, "auto", "cpu").name == "onnxruntime"
    hide(monkeypatch, "openvino", "onnxruntime")
    assert load_backend(directory, "auto", "cpu").name == "torch"
    only = with_backends(directory, openvino="fp32")
    with refuses(InputError, "backend.none_usable", "backend auto") as caught:
        load_backend(only, "auto", "cpu")
    assert "openvino is not installed" in caught.value.problem


def test_only_backends_that_were_checked_are_loaded(directory: EngineDirectory) -> None:
    assert load_backend(with_backends(directory, torch="fp32"), "auto", "cpu").name == "torch"
    with refuses(InputError, "backend.not_exported", "backend openvino"):
        load_backend(with_backends(directory, torch="fp32"), "openvino", "cpu")


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "torch"])
def test_a_backend_that_is_not_installed_is_named_with_the_command_that_installs_it(
    directory: EngineDirectory, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, name)
    with refuses(InputError, "backend.not_installed", f"backend {name}") as caught:
        load_backend(directory, name, "cpu")
    assert caught.value.hint.startswith("pip install 'medfocus[")


def test_devices_and_backends_that_are_unavailable_or_unknown(directory: EngineDirectory) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    for gpu in ("cuda", "cuda:3"):
        with refuses(InputError, "device.unavailable", f"device {gpu}"):
            load_backend(directory, "onnxruntime", gpu)
        with refuses(InputError, "device.unavailable", f"device {gpu}"):
            load_backend(directory, "openvino", gpu)
    for unknown in ("tpu", "cuda:", "cuda:-1", "cuda:x", "cuda: 1", "cuda:1\n", "cpu:0", "", None):
        with refuses(InputError, "device.unknown", f"{unknown!r}"):
            load_backend(directory, "torch", unknown)  # type: ignore[arg-type]
    with refuses(InputError, "backend.unknown", "jax"):
        load_backend(directory, "jax", "cpu")


def test_onnx_runtime_has_no_bf16_on_a_cpu(directory: EngineDirectory) -> None:
    manifest = directory.manifest
    bf16 = replace(manifest, precision=replace(manifest.precision, dtype="bf16"))
    with refuses(InputError, "backend.unsupported_precision", "backend onnxruntime"):
        load_backend(replace(directory, manifest=bf16), "onnxruntime", "cpu")


def test_weights_that_are_not_listed_are_not_loaded(directory: EngineDirectory) -> None:
    manifest = directory.manifest
    files = {name: r for name, r in manifest.files.items() if name != "classifier.onnx.data"}
    less = replace(directory, manifest=replace(manifest, files=files))
    for name in ("onnxruntime", "openvino"):
        with refuses(EngineDirectoryError, "engine.file_not_listed", "classifier.onnx.data"):
            load_backend(less, name, "cpu")


@pytest.mark.parametrize(
    "elsewhere", ["other.data", "../engine/classifier.onnx.data", "/etc/passwd"]
)
def test_a_graph_that_refers_to_a_file_that_is_not_listed_is_not_loaded(
    directory: EngineDirectory, tmp_path: Path, elsewhere: str
) -> None:
    path = shutil.copytree(directory.path, tmp_path / "engine")
    model = onnx.load(path / "classifier.onnx", load_external_data=False)
    entries = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    next(entry for entry in entries if entry.key == "location").value = elsewhere
    onnx.save(model, path / "classifier.onnx")
    (path / FILE_NAME).unlink()
    (path / DIGEST_NAME).unlink()
    write_manifest(path, replace(directory.manifest, files={}))
    shutil.copy(path / "classifier.onnx.data", path / "other.data")
    for name in ("onnxruntime", "openvino"):
        with refuses(EngineDirectoryError, "engine.file_not_listed", elsewhere):
            load_backend(read_engine_directory(path), name, "cpu")


def test_a_graph_that_a_runtime_cannot_load(directory: EngineDirectory, tmp_path: Path) -> None:
    """It is an error, and `auto` takes the next backend."""
    shutil.copytree(directory.path, tmp_path / "engine")
    (tmp_path / "engine" / "segmenter.onnx").write_bytes(b"")  # protobuf, but no graph
    broken = replace(directory, path=tmp_path / "engine")
    for name in ("onnxruntime", "openvino"):
        with refuses(EngineDirectoryError, "engine.not_loadable") as caught:
            load_backend(broken, name, "cpu")
        assert name in caught.value.problem
    assert load_backend(broken, "auto", "cpu").name == "torch"
    (tmp_path / "engine" / "segmenter.onnx").write_bytes(b"no protobuf")
    with refuses(EngineDirectoryError, "engine.not_loadable", "segmenter.onnx"):
        load_backend(broken, "openvino", "cpu")


def test_a_broken_library_is_skipped(
    directory: EngineDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "openvino")
    finder = sys.meta_path[0]

    def broken(name: str, *_: object) -> None:
        if name == "openvino":
            raise ImportError("libopenvino.so: version mismatch")

    monkeypatch.setattr(finder, "find_spec", broken)
    with refuses(InputError, "backend.broken", "backend openvino") as caught:
        load_backend(directory, "openvino", "cpu")
    assert "version mismatch" in caught.value.problem
    assert load_backend(directory, "auto", "cpu").name == "onnxruntime"


def test_auto_does_without_a_provider_that_cannot_start(
    directory: EngineDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert load_backend(directory, "onnxruntime", "auto").device == "cpu"
    assert "CUDAExecutionProvider" in caplog.text


def test_a_provider_that_cannot_start_is_an_error(
    directory: EngineDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime itself continues on the CPU, with a warning."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with refuses(InputError, "device.unavailable", "device cuda") as caught:
        load_backend(directory, "onnxruntime", "cuda")
    assert "CUDAExecutionProvider" in caught.value.problem


def test_torch_says_how_many_gpus_it_finds(
    directory: EngineDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with refuses(InputError, "device.unavailable", "device cuda:2") as caught:
        load_backend(directory, "torch", "cuda:2")
    assert "2 CUDA devices" in caught.value.problem


class Binding:
    """ONNX Runtime's binding, on the CPU; keeps where outputs were asked for."""

    placed: ClassVar[set[tuple[str, int]]] = set()

    def __init__(self, session: Any) -> None:
        self._session, self._inputs = session, dict[str, np.ndarray]()

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        self._inputs[name] = array

    def bind_output(self, name: str, device: str, ordinal: int) -> None:
        self.placed.add((device, ordinal))

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        outputs: list[np.ndarray] = self._session.run(None, self._inputs)
        return outputs


def test_onnx_runtime_is_told_which_gpu(
    directory: EngineDirectory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a stand-in for its CUDA provider: both graphs and all outputs are on that GPU.

    The provider makes it the loading thread's current GPU, so that is not the caller's thread.
    """
    session, asked = onnxruntime.InferenceSession, []

    class OnGpu:
        def __init__(self, path: Path, options: Any, providers: list[Any]) -> None:
            asked.append(providers[0])
            assert threading.current_thread() is not threading.main_thread()
            self._session = session(path, options, providers=["CPUExecutionProvider"])
            self.run, self.get_outputs = self._session.run, self._session.get_outputs

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider"]

        def io_binding(self) -> Binding:
            return Binding(self._session)

        def run_with_iobinding(self, binding: Binding) -> None:
            pass

    monkeypatch.setattr(onnxruntime, "InferenceSession", OnGpu)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    Binding.placed.clear()
    with installed(tmp_path):
        with refuses(InputError, "device.unavailable", "device cuda:2"):
            load_backend(directory, "onnxruntime", "cuda:2")
        with Engine.load(directory.path, "onnxruntime", "cuda:1") as engine:
            assert engine.device == "cuda:1"
            engine.classify(np.zeros((20, 20), np.uint8), strict=True)
    options = {"use_tf32": "0", "device_id": "1"}
    assert asked == 2 * [("CUDAExecutionProvider", options)]
    assert Binding.placed == {("cuda", 1)}


WITHOUT_DRIVER = """
import ctypes, sys
ctypes.CDLL = lambda name, *_: (_ for _ in ()).throw(OSError(name))
from medfocus.engine.backends.device import has_gpu_driver
assert not has_gpu_driver()
from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.backends.registry import load_backend
backend = load_backend(read_engine_directory(sys.argv[1]), "auto", "auto")
print(backend.name, backend.device, "torch" in sys.modules)
"""


def test_without_a_gpu_driver_no_runtime_is_asked_for_gpus(directory: EngineDirectory) -> None:
    command = [sys.executable, "-c", WITHOUT_DRIVER, str(directory.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split() == ["openvino", "cpu", "False"]
