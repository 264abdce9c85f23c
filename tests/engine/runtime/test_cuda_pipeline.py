"""The pipeline on CUDA streams: the schedules of `test_pipeline`, and the engine itself."""

import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from medfocus.engine import Engine
from medfocus.engine.backends.torch.batch_buffers import TorchBatchBuffers
from medfocus.engine.runtime.image_request import GraphOutputs
from tests.engine.runtime.schedules import POISON, Script, ScriptedBuffers, run_and_check
from tests.engine.test_engine import assert_close, pictures

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class DeviceBuffers(ScriptedBuffers):
    """The scripted arithmetic on the device, with kernels of random durations."""

    def __init__(self, script: Script, count: int) -> None:
        super().__init__(script, count)
        self._staged = torch.full((count,), POISON, pin_memory=True)
        self._on_device = torch.full((3, count), POISON, device="cuda")
        self._results = torch.full((count,), POISON, pin_memory=True)
        self._spin = random.Random(script.seed)
        torch.cuda.synchronize()

    def begin(self, requests: list) -> None:  # type: ignore[override]
        super().begin(requests)
        self._staged.fill_(POISON)
        self._results.fill_(POISON)

    def prepare(self, row: int) -> None:
        super().prepare(row)
        self._staged[row] = int(self._images[row])

    def segment(self) -> None:
        self._run("segment")
        self._on_device.fill_(POISON)
        torch.cuda._sleep(self._spin.choice((0, 10_000, 1_000_000)))
        self._on_device[0].copy_(self._staged, non_blocking=True)
        self._on_device[1] = 3 * self._on_device[0] + 1

    def classify(self) -> None:
        self._run("classify")
        torch.cuda._sleep(self._spin.choice((0, 10_000, 1_000_000)))
        self._on_device[2] = 5 * self._on_device[1] + 7 * self._on_device[0]
        self._results.copy_(self._on_device[2], non_blocking=True)

    def outputs(self, row: int) -> GraphOutputs:
        self._answers[row] = int(self._results[row])
        return super().outputs(row)


def test_any_schedule_equals_the_sequential_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from medfocus.engine.backends.torch.cuda_stream import CudaStream
    from tests.engine.runtime import schedules

    monkeypatch.setattr(schedules, "ScriptedBuffers", DeviceBuffers)
    draw = random.Random(0)
    for _ in range(200):
        values = [[draw.randint(0, 20) for _ in range(16)] for _ in range(draw.randint(1, 3))]
        drawn = {
            "seed": draw.getrandbits(32),
            "callers": values,
            "batches": draw.randint(1, 3),
            "max_batch": draw.randint(1, 5),
            "batch_size": draw.randint(1, 6),
            "threads": 2,
            "max_wait": 0.0,
            "most_bytes": 100,
            "one_stream": draw.random() < 0.3,
            "out_of_memory": draw.random() < 0.3,
        }
        run_and_check(drawn, CudaStream)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_predictions_equal_those_on_the_cpu(engine_directory: Path, count: int) -> None:
    shown = pictures(count)
    with_gpu = Engine.load(engine_directory, backend="torch", device="cuda")
    on_cpu = Engine.load(engine_directory, backend="torch", device="cpu")
    begun = time.perf_counter()
    with with_gpu.tracing() as spans:
        predictions = list(with_gpu.stream(shown))
    assert {span.stage for span in spans} == {"prepare", "segment", "classify", "answer"}
    assert all(begun - 1e-3 < span.begun <= span.ended for span in spans)
    for found, expected in zip(predictions, on_cpu.classify(shown), strict=True):
        assert (found.label, found.focused) == (expected.label, expected.focused)
        assert_close(found.patch_focus, expected.patch_focus, atol=1e-3)
        for name, probability in expected.probabilities.items():
            assert found.probabilities[name] == pytest.approx(probability, abs=1e-3)
    pool = with_gpu._pipeline._buffers
    assert all(isinstance(buffers, TorchBatchBuffers) for buffers in pool)
    works = {work for buffers in pool for work, _ in buffers._captured}  # type: ignore[attr-defined]
    assert works == {"segment", "segment (1, 1)", "segment (1, 2)", "classify"}
    with_gpu.close()
    on_cpu.close()


def test_the_callers_own_prompts_are_answered_as_on_the_cpu(engine_directory: Path) -> None:
    """Boxes and points from CUDA graphs, several points without one, in turns."""
    shown = pictures(12)
    boxes = [(4, 6, 30, 28), None, None] * 4
    points = [None, [(20, 12)], [(20, 12), (5, 5, 0), (9, 9)]] * 4
    with (
        Engine.load(engine_directory, backend="torch", device="cuda") as with_gpu,
        Engine.load(engine_directory, backend="torch", device="cpu") as on_cpu,
    ):
        for _ in range(3):
            found, expected = (
                engine.classify(shown, boxes=boxes, points=points) for engine in (with_gpu, on_cpu)
            )
            for ours, theirs in zip(found, expected, strict=True):
                assert (ours.label, ours.focused) == (theirs.label, theirs.focused)
                assert_close(ours.patch_focus, theirs.patch_focus, atol=1e-3)


def test_no_memory_depends_on_the_images_sizes(engine_directory: Path) -> None:
    """So that what `memory_limit` measures with blank images holds for all."""
    sizes = [(40, 30), (256, 256), (3000, 2000), (12, 4000), (1024, 1024)] * 8
    shown = [np.full((*size, 3), 99, np.uint8) for size in sizes]
    with Engine.load(engine_directory, "torch", "cuda", memory_limit=2**40) as engine:
        torch.cuda.synchronize()
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        engine.classify(shown, strict=True)
        assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_an_engine_on_the_second_gpu_leaves_the_first_alone(engine_directory: Path) -> None:
    shown = pictures(40)
    torch.cuda.synchronize(0)
    before = torch.cuda.mem_get_info(0)[0]
    with (
        Engine.load(engine_directory, backend="torch", device="cuda:1") as second,
        Engine.load(engine_directory, backend="torch", device="cpu") as on_cpu,
    ):
        assert second.device == "cuda:1"
        for found, expected in zip(second.classify(shown), on_cpu.classify(shown), strict=True):
            assert (found.label, found.focused) == (expected.label, expected.focused)
            assert_close(found.patch_focus, expected.patch_focus, atol=1e-3)
        assert torch.cuda.mem_get_info(0)[0] == before
        assert torch.cuda.current_device() == 0


def test_events_give_times_on_the_hosts_clock() -> None:
    from medfocus.engine.backends.torch.cuda_stream import CudaStream

    stream = CudaStream("timed")
    before = time.perf_counter()
    event = stream.submit(lambda: torch.cuda._sleep(10_000_000))
    event.wait()
    after = time.perf_counter()
    assert before - 1e-3 < event.begun < event.ended < after + 1e-3
    assert event.ended - event.begun > 1e-3
    stream.close()
