"""A study's settings, and that it resumes with the same bits."""

import json
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import pytest
from rich.progress import Progress

from medfocus.errors import DeviceError, InputError
from medfocus.fewshot.backbones import WeightSources
from medfocus.fewshot.data.dataset import Dataset
from medfocus.fewshot.data.splitting.splits import Fraction
from medfocus.fewshot.study import grid as grid_module
from medfocus.fewshot.study.grid import Grid, run_grid
from medfocus.fewshot.study.run import Setting
from medfocus.fewshot.study.worker import StudyConfig, Worker
from tests.errors import refuses


def test_the_settings() -> None:
    grid = Grid(
        ("none", "soft"),
        ("zero-shot", "lora"),
        (Fraction(0.05), Fraction(1)),
        3,
        ("true", "random"),
    )
    settings = [*grid.settings("lung", with_lesions=True)]
    assert len(set(settings)) == len(settings)
    # zero-shot: one run per mode and mask. lora: 2 amounts × 3 seeds per mode, 2 masks × 3 seeds.
    assert len(settings) == (2 + 2) + (2 * 6 + 2 * 3)
    assert Setting("lung", "soft", "random", "lora", "5%", 2) in settings
    assert Setting("lung", "none", "found", "zero-shot", "none", 0) in settings
    assert not any(s.masks != "found" and s.amount == "100%" for s in settings)
    assert not any(s.masks == "true" for s in grid.settings("lung", with_lesions=False))


@pytest.mark.long
def test_a_study_resumes(brain: Dataset, cache: Path, tmp_path: Path) -> None:
    config = StudyConfig("tiny", WeightSources(), "cpu", cache, {"brain": brain}, steps=2)
    worker = Worker(config)
    grid = Grid(("none", "soft"), ("zero-shot", "probe"), (Fraction(0.5),), 2, ("random",))
    with Progress(disable=True) as progress:
        runs = run_grid(tmp_path, worker, grid, progress)
        files = sorted((tmp_path / "runs").iterdir())
        before = {file: (file.read_text(), file.stat().st_mtime_ns) for file in files}
        assert len(files) == len(runs) == 9
        lost = next(file for file in files if "soft.found.probe" in file.name)
        lost.unlink()
        again = run_grid(tmp_path, worker, grid, progress)
    assert [run.setting for run in again] == [run.setting for run in runs]
    for file, (text, modified) in before.items():
        content, expected = json.loads(file.read_text()), json.loads(text)
        seconds = content.pop("seconds"), expected.pop("seconds")
        assert content == expected, seconds
        assert (file.stat().st_mtime_ns == modified) == (file != lost)
    assert all(run.labels.tolist() == runs[0].labels.tolist() for run in runs)
    learned = {run.setting.adaptation: run.trained_on for run in runs}
    assert learned == {"zero-shot": 0, "probe": 8}  # half of 4, 4, 5 and 5, rounded to even
    splits = json.loads((tmp_path / "splits" / "brain.50-percent.0.json").read_text())
    assert {entry["file"] for entry in splits["train"]}.isdisjoint(
        entry["file"] for entry in splits["test"]
    )
    last = replace(brain.items[-1], label=(brain.items[-1].label + 1) % 4)
    relabelled = replace(brain, items=(*brain.items[:-1], last))
    changes = replace(config, steps=3), replace(config, datasets={"brain": relabelled})
    for changed in changes:
        worker.config = changed
        with refuses(InputError, "input.other_study", str(tmp_path)):
            run_grid(tmp_path, worker, grid, Progress(disable=True))
    worker.config = config
    lost.write_text(json.dumps({**json.loads(lost.read_text()), "seed": 7}))
    with refuses(InputError, "input.invalid_run", lost.name):
        run_grid(tmp_path, worker, grid, Progress(disable=True))


@pytest.mark.parametrize("dies_in", ["submit", "result"])
def test_a_killed_worker_process_is_named(
    dies_in: str, brain: Dataset, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it dies while settings are still being submitted."""

    class DeadPool(ThreadPoolExecutor):
        def __init__(self, *_: object) -> None:
            super().__init__(1)

        def submit(self, *_: object) -> Future[object]:  # type: ignore[override]
            if dies_in == "submit":
                raise BrokenProcessPool
            future: Future[object] = Future()
            future.set_exception(BrokenProcessPool())
            return future

    monkeypatch.setattr(grid_module, "ProcessPoolExecutor", DeadPool)
    worker = Worker(StudyConfig("tiny", WeightSources(), "cpu", cache, {"brain": brain}, steps=2))
    grid = Grid(("none",), ("zero-shot",), (Fraction(0.5),), 1, ())
    with refuses(DeviceError, "device.process_killed", "process"):
        run_grid(tmp_path, worker, grid, Progress(disable=True))


def test_a_grid_needs_a_seed() -> None:
    with refuses(InputError, "input.out_of_range", "0 seeds"):
        Grid(("none",), ("probe",), (Fraction(1),), 0, ())
