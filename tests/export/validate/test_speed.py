"""What an export records of its backends' speed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.backends.device import processor_name
from medfocus.engine.runtime.buffer_pool import BufferPool
from medfocus.export.config import ExportConfig
from medfocus.export.engine_directory import build
from medfocus.export.validate import speed
from medfocus.export.validate.images import phantoms
from medfocus.export.validate.speed import measured_speed
from tests.conftest import random_bundle


class Stream:
    """Runs tasks at once; each takes as long as the script says, on a clock of its own."""

    def __init__(self, seconds: Sequence[float]) -> None:
        self._seconds = iter(seconds)
        self.closed = False

    def submit(self, task: Callable[[], object], after: Any = None) -> Any:
        task()
        return SimpleNamespace(begun=70.0, ended=70.0 + next(self._seconds), wait=lambda: None)

    def close(self) -> None:
        self.closed = True


class Buffers:
    """Counts the images of its batches."""

    def __init__(self, problem: Exception | None = None) -> None:
        self.batches: list[int] = []
        self._problem = problem

    def begin(self, requests: Sequence[object]) -> None:
        self.batches.append(len(requests))

    def segment(self) -> None:
        if self._problem is not None:
            raise self._problem

    def prepare(self, row: int) -> None: ...
    def classify(self) -> None: ...
    def end(self) -> None: ...


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(speed, "processor_name", lambda device, ordinal: f"A {device} {ordinal}")
    manifest = SimpleNamespace(buckets=(1, 8), prompts=None)

    def measure(buffers: Buffers, device: str, *streams: Stream) -> Any:
        pool = BufferPool([buffers], *streams)  # type: ignore[list-item]
        backend = SimpleNamespace(device=device, ordinal=1, buffer_pool=lambda *_: pool)
        return measured_speed(backend, manifest, phantoms(1)[0])  # type: ignore[arg-type]

    return measure


@pytest.mark.parametrize(("device", "images"), [("cpu", 1), ("cuda", 8)])
def test_it_is_the_median_of_both_stages_after_the_first_batch(
    measuring: Callable[..., Any], device: str, images: int
) -> None:
    buffers, segment = Buffers(), Stream((99.0, 3.0, 8.0, 4.0))
    classify = Stream((99.0, 0.5, 2.0, 2.0))
    found = measuring(buffers, device, segment, classify)
    assert found.seconds_per_image == pytest.approx((4.0 + 2.0) / images)
    assert (found.device, found.processor) == (device, f"A {device} 1")
    assert buffers.batches == [images] * 4
    assert (segment.closed, classify.closed) == (True, True)


def test_a_batch_that_does_not_fit_has_no_figure(measuring: Callable[..., Any]) -> None:
    segment, classify = Stream(()), Stream(())
    problem = RuntimeError("CUDA out of memory")
    assert measuring(Buffers(problem), "cuda", segment, classify) is None
    assert (segment.closed, classify.closed) == (True, True)
    with pytest.raises(ZeroDivisionError):
        measuring(Buffers(ZeroDivisionError()), "cuda", segment, classify)


@pytest.mark.slow
def test_an_engine_of_several_backends_holds_the_speed_of_each(tmp_path: Path) -> None:
    """Of PyTorch in float32 too, which is the gate's reference and not checked by it."""
    config = ExportConfig("fp32", ("onnx", "torch"), buckets=(1,))
    build(tmp_path / "engine", random_bundle(), config, phantoms(2))
    speeds = read_engine_directory(tmp_path / "engine").manifest.speeds
    assert speeds.keys() == {"onnxruntime", "torch"}
    assert {each.processor for each in speeds.values()} == {processor_name("cpu", 0)}
