"""The builder, run with a stand-in for TensorRT."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from rich.console import Console
from rich.progress import Progress

from medfocus.engine.backends.tensorrt.library import require_tensorrt
from medfocus.errors import DeviceError, EngineDirectoryError, InputError
from medfocus.export.tensorrt.build_plans import build_plans, timing_cache
from medfocus.export.tensorrt.profiles import MOST_POINTS, input_dimensions, profiles
from medfocus.models.presets import ZERO_SHOT
from tests.errors import refuses
from tests.tensorrt_api import library
from tests.tensorrt_api.device import Device
from tests.tensorrt_api.installed import installed

BUCKETS = (1, 8, 32)
FOLDER = "plans/sm90-11.4.0.106"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with installed(tmp_path / "cache") as stand_in:
        yield stand_in


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    """A staging folder with graphs that have inputs like ours, and only identities."""
    folder = tmp_path / "staging"
    folder.mkdir()
    prompted = ["batch", "prompts", "points"]
    save(folder / "segmenter.onnx", {"image": ["batch", 3, 8, 8], "points": [*prompted, 2]})
    save(folder / "classifier.onnx", {"image": ["batch", 3, 4, 4], "rows": ["batch", 2, 8]})
    return folder


def save(path: Path, inputs: dict[str, list[str | int]]) -> None:
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in inputs.items()
    ]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in inputs]
    results = [
        helper.make_tensor_value_info(f"{n}_out", TensorProto.FLOAT, s) for n, s in inputs.items()
    ]
    graph = helper.make_graph(nodes, path.stem, values, results)
    onnx.save(helper.make_model(graph), path)


def test_each_bucket_has_a_profile_tuned_for_it(staging: Path) -> None:
    inputs = input_dimensions(staging / "segmenter.onnx")
    assert inputs == {"image": ("batch", 3, 8, 8), "points": ("batch", "prompts", "points", 2)}
    found = profiles(inputs, BUCKETS, {"prompts": (1, 9, 9), "points": (1, 1, 16)})
    assert [profile["image"] for profile in found] == [
        ((1, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8)),
        ((2, 3, 8, 8), (8, 3, 8, 8), (8, 3, 8, 8)),
        ((9, 3, 8, 8), (32, 3, 8, 8), (32, 3, 8, 8)),
    ]
    assert found[1]["points"] == ((2, 1, 1, 2), (8, 9, 1, 2), (8, 9, 16, 2))


def test_every_batch_up_to_the_largest_bucket_has_one_profile() -> None:
    found = profiles({"x": ("batch",)}, BUCKETS, {})
    for batch in range(1, 33):
        assert sum(p["x"][0][0] <= batch <= p["x"][2][0] for p in found) == 1


def test_both_plans_are_built_strongly_typed(staging: Path, device: Device) -> None:
    assert build_plans(staging, BUCKETS, ZERO_SHOT) == FOLDER
    assert sorted(p.name for p in (staging / FOLDER).iterdir()) == [
        "classifier.plan",
        "segmenter.plan",
    ]
    for name in ("segmenter", "classifier"):
        seen = library.seen[name]
        assert seen["strong"]
        assert not seen["aot"]
        assert not seen["tf32"], "float32 stays float32"
        assert len(seen["profiles"]) == len(BUCKETS)
    points = library.seen["segmenter"]["profiles"][2]["points"]
    assert points == [[9, 1, 1, 2], [32, 9, 1, 2], [32, 9, MOST_POINTS, 2]]


def test_another_classifier_can_be_built(staging: Path, device: Device) -> None:
    other = staging / "other.onnx"
    save(other, {"image": ["batch", 3, 4, 4]})
    build_plans(staging, BUCKETS, ZERO_SHOT, classifier=other)
    assert set(library.seen) == {"segmenter", "other"}
    assert (staging / FOLDER / "classifier.plan").is_file()


def test_the_folder_names_the_architecture(staging: Path, device: Device) -> None:
    device.capability = (12, 0)
    assert build_plans(staging, BUCKETS, ZERO_SHOT) == "plans/sm120-11.4.0.106"


def test_a_refused_graph_is_an_error_with_all_the_parsers_messages(
    staging: Path, device: Device
) -> None:
    library.parser_errors += [
        {
            "code": "ErrorCode.UNSUPPORTED_NODE",
            "desc": f"no importer for this node {i}",
            "file": "ModelImporter.cpp",
            "line": 700 + i,
            "func": "parseNode",
            "node": i,
            "node_name": f"node_{i}",
            "node_operator": "NonZero",
        }
        for i in range(30)
    ]
    with refuses(EngineDirectoryError, "engine.build_failed") as caught:
        build_plans(staging, BUCKETS, ZERO_SHOT)
    assert caught.value.item == str(staging / "segmenter.onnx")
    text = str(caught.value)
    assert "11.4.0.106" in text
    for i in range(30):
        for detail in (f"node {i} 'node_{i}' (NonZero)", f"this node {i} ", f"cpp:{700 + i}"):
            assert detail in text
    assert not (staging / "plans").exists()


def test_a_build_without_a_result_is_an_error(
    staging: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "build_fails", True)
    with refuses(EngineDirectoryError, "engine.build_failed", "segmenter.onnx") as caught:
        build_plans(staging, BUCKETS, ZERO_SHOT)
    assert "error: no kernel for node 7" in str(caught.value), "TensorRT's own message"
    assert "looking for" not in str(caught.value), "messages below warnings are left out"


def test_an_impossible_profile_is_an_error(staging: Path, device: Device) -> None:
    with refuses(EngineDirectoryError, "engine.build_failed", "segmenter.onnx"):
        build_plans(staging, (8, 4), ZERO_SHOT)


def test_measured_times_are_kept_between_builds(staging: Path, device: Device) -> None:
    build_plans(staging, BUCKETS, ZERO_SHOT)
    cache = timing_cache(90, "11.4.0.106")
    assert library.seen["segmenter"]["cache"] == b""
    assert library.seen["classifier"]["cache"] == b"+"
    assert cache.read_bytes() == b"++"
    assert list(cache.parent.iterdir()) == [cache], "no temporary file is left"
    build_plans(staging, BUCKETS, ZERO_SHOT)
    assert library.seen["classifier"]["cache"] == b"+++"


def test_a_damaged_or_unwritable_cache_does_not_stop_a_build(
    staging: Path, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = timing_cache(90, "11.4.0.106")
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"torn")  # the stand-in refuses these bytes
    build_plans(staging, BUCKETS, ZERO_SHOT)
    assert library.seen["segmenter"]["cache"] == b""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    build_plans(staging, BUCKETS, ZERO_SHOT)


def test_progress_shows_phases_and_steps(staging: Path, device: Device) -> None:
    text = io.StringIO()
    with Progress(console=Console(file=text, force_terminal=True, width=90)) as progress:
        build_plans(staging, BUCKETS, ZERO_SHOT, progress=progress)
        assert not progress.tasks, "bars of finished phases are removed"
    for phase in ("Building", "Tuning"):
        assert phase in text.getvalue()


def test_an_interrupt_stops_the_build(
    staging: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    progress = Progress(console=Console(file=io.StringIO()))
    monkeypatch.setattr(progress, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_plans(staging, BUCKETS, ZERO_SHOT, progress=progress)
    assert not (staging / "plans").exists()


def test_a_missing_tensorrt_is_an_error(staging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    for attempt in (require_tensorrt, lambda: build_plans(staging, BUCKETS, ZERO_SHOT)):
        with refuses(InputError, "backend.not_installed", "tensorrt"):
            attempt()
    assert not (staging / "plans").exists()


def test_bindings_without_libraries_are_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.11: not found')")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with refuses(InputError, "backend.broken", "tensorrt") as caught:
        require_tensorrt()
    assert "libnvinfer.so.11" in caught.value.problem


def test_an_old_tensorrt_is_an_error(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    assert require_tensorrt() == "11.4.0.106"
    monkeypatch.setattr(library, "__version__", "8.6.1")
    with refuses(InputError, "backend.broken", "tensorrt") as caught:
        require_tensorrt()
    assert "8.6.1" in caught.value.problem


def test_a_missing_gpu_is_an_error(
    staging: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = lambda: (device.cudaError_t.cudaErrorMemoryAllocation, 0)  # noqa: E731
    monkeypatch.setattr(device, "cudaGetDevice", failing)
    with pytest.raises(DeviceError) as caught:
        build_plans(staging, BUCKETS, ZERO_SHOT)
    assert "cudaErrorMemoryAllocation" in str(caught.value)
