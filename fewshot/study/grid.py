"""Runs a grid of settings in one process per core and saves each run when it finishes."""

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.progress import Progress

from medfocus.errors import DeviceError, InputError
from medfocus.fewshot.adapt.fit import Adaptation
from medfocus.fewshot.data.splitting.contents import fingerprint
from medfocus.fewshot.data.splitting.splits import Fraction, Shots, Split, make_split
from medfocus.fewshot.study.run import Masks, Run, Setting
from medfocus.fewshot.study.worker import StudyConfig, Worker, one_thread
from medfocus.files.atomic_write import atomic_write
from medfocus.files.file_errors import unreadable
from medfocus.settings import FocusMode

PROCESSES = 8  # maximum: each holds the models and the images in memory
NO_IMAGES = "none"  # the amount of zero-shot


@dataclass(frozen=True)
class Grid:
    """The settings of a study: all combinations, and the ablations at the smallest amount.

    Attributes:
        focus: the modes.
        adaptations: `zero-shot` runs once per mode, regardless of amounts and seeds.
        amounts: of training images, ascending.
        seeds: how many; each sets the choice of training images and the training.
        ablations: masks other than SAM2's, run for every mode but `none` at the smallest amount.
    """

    focus: tuple[FocusMode, ...]
    adaptations: tuple[Adaptation, ...]
    amounts: tuple[Fraction | Shots, ...]
    seeds: int
    ablations: tuple[Masks, ...]

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InputError(
                f"{self.seeds} seeds", "are too few", "use 1 or more", code="input.out_of_range"
            )

    def settings(self, dataset: str, with_lesions: bool) -> Iterator[Setting]:
        """The settings of a data set; true masks only if it has lesion masks."""
        for focus in self.focus:
            for adaptation in self.adaptations:
                amounts: Sequence[object] = self.amounts
                seeds = self.seeds
                if adaptation == "zero-shot":
                    amounts, seeds = (NO_IMAGES,), 1
                for amount in amounts:
                    for seed in range(seeds):
                        yield Setting(dataset, focus, "found", adaptation, str(amount), seed)
                if focus == "none":
                    continue
                for masks in self.ablations:
                    if masks == "true" and not with_lesions:
                        continue
                    for seed in range(seeds):
                        yield Setting(dataset, focus, masks, adaptation, str(amounts[0]), seed)


def run_grid(folder: Path, worker: Worker, grid: Grid, progress: Progress) -> list[Run]:
    """Run all settings whose runs are not in the folder yet, in parallel processes.

    Args:
        folder: receives `study.json`, `splits/` and one file per run in `runs/`; existing runs are
            reused.
        worker: its configuration and models must be those of the existing runs.
        grid: the settings.
        progress: shows the progress.

    Raises:
        InputError: the folder belongs to another study, or a data set cannot be split.
        DeviceError: a process was killed.
        MedfocusError: raised by a run; finished runs are kept.
    """
    config = worker.config
    splits = _splits(config, grid, progress)
    _check_identity(folder, worker, grid)
    for (dataset, amount, seed), split in splits.items():
        split.save(folder / "splits" / f"{dataset}.{_word(amount)}.{seed}.json")
    settings = [
        setting
        for name, dataset in config.datasets.items()
        for setting in grid.settings(name, any(item.masks for item in dataset.items))
    ]
    runs = {setting: read_run(folder, setting) for setting in settings}
    missing = [setting for setting, run in runs.items() if run is None]
    task = progress.add_task(
        "adapting", total=len(settings), completed=len(settings) - len(missing)
    )
    if missing:
        # Spawned: a forked process would inherit torch's threads in an undefined state.
        with ProcessPoolExecutor(
            1 if config.device == "cuda" else min(os.cpu_count() or 1, PROCESSES, len(missing)),
            multiprocessing.get_context("spawn"),
            _start,
            (config,),
        ) as pool:
            try:
                futures = [
                    pool.submit(_work, folder, setting, _split_of(setting, grid, splits))
                    for setting in missing
                ]
                for future in as_completed(futures):
                    run = future.result()
                    runs[run.setting] = run
                    progress.advance(task)
            except BrokenProcessPool as error:
                raise DeviceError(
                    "a worker process of the study",
                    "was killed, possibly because memory ran out",
                    "run the same command again with more memory; finished runs are kept",
                    code="device.process_killed",
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)
    return [run for run in runs.values() if run is not None]


def read_run(folder: Path, setting: Setting) -> Run | None:
    """Read a setting's run from the folder; None if it is not there.

    Raises:
        InputError: the file is not a run of this setting.
    """
    path = _run_path(folder, setting)
    if not path.exists():
        return None
    try:
        run = Run.from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise unreadable(path, error) from error
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise InputError(
            str(path), "is not a run", "delete it", code="input.invalid_run"
        ) from error
    if run.setting != setting:
        raise InputError(
            str(path), "is a run of another setting", "delete it", code="input.invalid_run"
        )
    return run


Splits = Mapping[tuple[str, str, int], Split]


def _splits(config: StudyConfig, grid: Grid, progress: Progress) -> Splits:
    wanted = [
        (name, amount, seed)
        for name in config.datasets
        for amount in grid.amounts
        for seed in range(grid.seeds)
    ]
    return {
        (name, str(amount), seed): make_split(config.datasets[name], amount, seed)
        for name, amount, seed in progress.track(wanted, description="splitting")
    }


def _split_of(setting: Setting, grid: Grid, splits: Splits) -> Split:
    """A setting's split; for zero-shot any split, since all have the same test images."""
    amount = str(grid.amounts[0]) if setting.amount == NO_IMAGES else setting.amount
    return splits[setting.dataset, amount, setting.seed]


def _check_identity(folder: Path, worker: Worker, grid: Grid) -> None:
    """Refuse to continue a folder with other data, weights or settings."""
    config, backbones = worker.config, worker.backbones
    identity = {
        "preset": config.preset,
        "clip": backbones.loaded.sha256,
        "sam2": backbones.segmenter_sha256,
        "text_folder": str(config.weights.text_folder),
        "device": config.device,
        "steps": config.steps,
        "grid": {**asdict(grid), "amounts": [str(amount) for amount in grid.amounts]},
        "data": {name: fingerprint(dataset) for name, dataset in config.datasets.items()},
    }
    text = json.dumps(identity, indent=1) + "\n"
    path = folder / "study.json"
    if path.exists() and path.read_bytes() != text.encode():
        raise InputError(
            str(folder),
            "holds another study, or its data or weights have changed",
            "choose another folder, or delete this one",
            code="input.other_study",
        )
    atomic_write(path, text)


_worker: Worker | None = None


def _start(config: StudyConfig) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    one_thread()
    _worker = Worker(config)


def _work(folder: Path, setting: Setting, split: Split) -> Run:
    assert _worker is not None
    run = _worker.run(setting, split)
    atomic_write(_run_path(folder, setting), json.dumps(run.to_json()))
    return run


def _run_path(folder: Path, setting: Setting) -> Path:
    words = (setting.focus, setting.masks, setting.adaptation, setting.amount, str(setting.seed))
    return folder / "runs" / f"{setting.dataset}.{'.'.join(map(_word, words))}.json"


def _word(text: str) -> str:
    return text.replace("%", "-percent").replace(" ", "-")
