"""Which runtime an engine takes, what it says where it cannot, and that all answer alike."""

import importlib.machinery
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest

from medfocus.engine import Engine
from medfocus.engine.artifact.directory import EngineDirectory, read_engine_directory
from medfocus.engine.backends.registry import load_backend
from medfocus.errors import EngineDirectoryError, InputError
from medfocus.export.validate.images import phantoms


@pytest.fixture
def directory(exported_engine: Path) -> EngineDirectory:
    return read_engine_directory(exported_engine)


class Missing:
    """An import finder for which some modules are not installed."""

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


@pytest.mark.slow
def test_another_device_than_the_checks_is_said(
    directory: EngineDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    load_backend(directory, "onnxruntime", "cpu").close()
    assert caplog.messages == []
    manifest = directory.manifest
    elsewhere = replace(manifest.parity["onnxruntime"], device="cuda")
    parity = {**manifest.parity, "onnxruntime": elsewhere}
    moved = replace(directory, manifest=replace(manifest, parity=parity))
    load_backend(moved, "onnxruntime", "cpu").close()
    assert caplog.messages == ["onnxruntime runs on cpu, and this engine was checked on cuda alone"]


@pytest.mark.slow
def test_all_backends_answer_alike(exported_engine: Path) -> None:
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
def test_an_answer_is_kept_when_the_next_call_comes(exported_engine: Path) -> None:
    """Runtimes use their own memory for outputs again."""
    one, two = (image.pixels for image in phantoms(2))
    for name in ("onnxruntime", "openvino"):
        engine = Engine.load(exported_engine, name)
        (first,) = engine.classify(one)
        assert first.focus_logits is not None
        before = first.focus_logits.copy()
        engine.classify(two)
        assert np.array_equal(first.focus_logits, before)


def test_auto_takes_the_fastest_that_is_there(
    directory: EngineDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_backend(directory, "auto", "cpu").name == "openvino"
    hide(monkeypatch, "openvino")
    assert load_backend(directory, "auto", "cpu").name == "onnxruntime"
    hide(monkeypatch, "openvino", "onnxruntime")
    assert load_backend(directory, "auto", "cpu").name == "torch"
    only = with_backends(directory, openvino="fp32")
    with pytest.raises(InputError, match=r"backend auto: none .*openvino is not installed"):
        load_backend(only, "auto", "cpu")


def test_auto_takes_what_was_checked_alone(directory: EngineDirectory) -> None:
    assert load_backend(with_backends(directory, torch="fp32"), "auto", "cpu").name == "torch"
    with pytest.raises(InputError, match="backend openvino: this engine was not exported for it"):
        load_backend(with_backends(directory, torch="fp32"), "openvino", "cpu")


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "torch"])
def test_what_is_not_installed_is_named_with_its_mend(
    directory: EngineDirectory, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, name)
    with pytest.raises(InputError, match=rf"backend {name}: {name} is not installed\. Pip install"):
        load_backend(directory, name, "cpu")


def test_devices_that_are_not_there(directory: EngineDirectory) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(InputError, match="device cuda: this ONNX Runtime has no CUDA"):
        load_backend(directory, "onnxruntime", "cuda")
    with pytest.raises(InputError, match="device cuda: openvino runs on the CPU"):
        load_backend(directory, "openvino", "cuda")
    with pytest.raises(InputError, match="device 'tpu'"):
        load_backend(directory, "torch", "tpu")
    with pytest.raises(InputError, match="backend 'jax'"):
        load_backend(directory, "jax", "cpu")


def test_bf16_is_not_for_onnx_runtime_on_a_cpu(directory: EngineDirectory) -> None:
    manifest = directory.manifest
    bf16 = replace(manifest, precision=replace(manifest.precision, dtype="bf16"))
    with pytest.raises(InputError, match="CPU kernels do not know bf16"):
        load_backend(replace(directory, manifest=bf16), "onnxruntime", "cpu")


def test_weights_that_are_not_listed_are_not_loaded(directory: EngineDirectory) -> None:
    manifest = directory.manifest
    files = {name: r for name, r in manifest.files.items() if name != "classifier.onnx.data"}
    less = replace(directory, manifest=replace(manifest, files=files))
    for name in ("onnxruntime", "openvino"):
        with pytest.raises(EngineDirectoryError, match=r"classifier\.onnx\.data: is not part of"):
            load_backend(less, name, "cpu")


def test_a_graph_that_a_runtime_cannot_load(directory: EngineDirectory, tmp_path: Path) -> None:
    """It is named, and `auto` goes on to the next."""
    shutil.copytree(directory.path, tmp_path / "engine")
    (tmp_path / "engine" / "segmenter.onnx").write_bytes(b"no graph")
    broken = replace(directory, path=tmp_path / "engine")
    for name in ("onnxruntime", "openvino"):
        with pytest.raises(EngineDirectoryError, match=f"{name} cannot load its graphs"):
            load_backend(broken, name, "cpu")
    assert load_backend(broken, "auto", "cpu").name == "torch"


def test_a_library_that_is_broken_is_passed_over(
    directory: EngineDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "openvino")
    finder = sys.meta_path[0]

    def broken(name: str, *_: object) -> None:
        if name == "openvino":
            raise ImportError("libopenvino.so: version mismatch")

    monkeypatch.setattr(finder, "find_spec", broken)
    with pytest.raises(InputError, match=r"is installed and cannot be loaded .*mismatch"):
        load_backend(directory, "openvino", "cpu")
    assert load_backend(directory, "auto", "cpu").name == "onnxruntime"


def test_auto_goes_without_a_provider_that_cannot_start(
    directory: EngineDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert load_backend(directory, "onnxruntime", "auto").device == "cpu"
    assert "could not start CUDAExecutionProvider" in caplog.text


def test_a_provider_that_cannot_start_is_an_error(
    directory: EngineDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime itself goes on, on the CPU, with a warning."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(InputError, match="could not start CUDAExecutionProvider"):
        load_backend(directory, "onnxruntime", "cuda")
