"""The state after a failed capture, on a stand-in for CUDA that only tracks streams."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.backends.torch.backend import TorchBackend
from medfocus.engine.backends.torch.batch_buffers import Captures, TorchBatchBuffers
from medfocus.engine.backends.torch.cuda_graph import Capture, captured


class Stream:
    def wait_stream(self, other: "Stream") -> None:
        assert other is not self


class Device:
    """Streams, and captures that fail; like torch's, a failed capture leaves its stream current."""

    def __init__(self) -> None:
        self.current = Stream()
        self.capturing = False
        self.capture_fails: Callable[[], bool] = lambda: False

    def set_stream(self, stream: Stream) -> None:
        self.current = stream

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    @contextmanager
    def graph(self, graph: object, *, stream: Stream, **_: object) -> Iterator[None]:
        before, self.current, self.capturing = self.current, stream, True
        yield
        self.capturing = False
        if self.capture_fails():
            raise RuntimeError("operation failed due to a previous error during capture")
        self.current = before


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    stand_ins: dict[str, Any] = {
        "current_stream": lambda: device.current,
        "set_stream": device.set_stream,
        "stream": device.stream,
        "graph": device.graph,
        "synchronize": lambda: None,
        "CUDAGraph": object,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return device


def shared() -> Capture:
    return Capture(None, Stream(), set())  # type: ignore[arg-type]


def test_work_is_warmed_up_on_the_captures_stream_then_captured(device: Device) -> None:
    before, capture, seen = device.current, shared(), []
    work = lambda: seen.append((id(device.current) == id(capture.stream), device.capturing))  # noqa: E731
    assert captured(work, capture, "work") is not None
    assert seen == [(True, False), (True, False), (True, True)]
    assert captured(work, capture, "work") is not None
    assert seen[3:] == [(True, True)], "warm already"
    assert captured(work, capture, "other work") is not None
    assert seen[4:] == [(True, False), (True, False), (True, True)]
    assert device.current is before


def test_a_failure_is_logged_and_restores_the_threads_stream(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    before = device.current
    device.capture_fails = lambda: True
    assert captured(lambda: None, shared(), "segment, 8 images") is None
    assert device.current is before
    (message,) = caplog.messages
    assert message.startswith("segment, 8 images: ")


ZERO_SHOT, POINT, BOX = (9, 1), (1, 1), (1, 2)


@pytest.mark.parametrize(
    ("failing", "tried"),
    [
        ((4, ZERO_SHOT), 1),
        ((1, ZERO_SHOT), 2),
        ((4, BOX), 5),
        ((0, ZERO_SHOT), 6),
    ],
)
def test_a_stage_whose_capture_fails_runs_eagerly_in_all_batch_buffers(
    device: Device,
    engine_directory: Path,
    caplog: pytest.LogCaptureFixture,
    failing: tuple[int, tuple[int, ...]],
    tried: int,
) -> None:
    """Whichever fails: the largest batch comes first; a caller's point and box are last."""
    directory = read_engine_directory(engine_directory)
    backend = TorchBackend(directory, "cpu")
    pair = [TorchBatchBuffers(backend, directory.manifest, 4, "cpu") for _ in range(2)]
    captures: Captures = {"segment": shared(), "classify": shared()}
    seen: list[tuple[str, int, tuple[int, ...]]] = []

    def eager(buffers: TorchBatchBuffers, stage: str, count: int) -> None:
        if device.capturing:
            seen.append((stage, count, buffers._prompts.shape))

    for buffers in pair:
        buffers._eager = partial(eager, buffers)  # type: ignore[method-assign]
    device.capture_fails = lambda: seen[-1] == ("segment", *failing)
    all_segments = [
        (work, bucket)
        for work in ("segment", "segment (1, 1)", "segment (1, 2)")
        for bucket in (1, 4)
    ]
    for buffers in pair:
        buffers.capture([1, 4], captures)
        segments = all_segments if failing[0] == 0 else []
        assert sorted(buffers._captured) == [("classify", 1), ("classify", 4), *segments]
    assert list(captures) == ["segment", "classify"][bool(failing[0]) :]
    order = [(bucket, shape) for shape in (ZERO_SHOT, POINT, BOX) for bucket in (4, 1)]
    segmented = [(count, shape) for stage, count, shape in seen if stage == "segment"]
    assert segmented == order[:tried] if failing[0] else segmented == 2 * order
    assert len(caplog.messages) == bool(failing[0])
