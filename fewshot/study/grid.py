"""Many settings, a process a core, each run on the disk as soon as it is done."""

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from medfocus.atomic_write import atomic_write
from medfocus.errors import DeviceError, InputError
from medfocus.fewshot.adapt.fit import Adaptation
from medfocus.fewshot.data.splitting.contents import fingerprint
from medfocus.fewshot.data.splitting.splits import Fraction, Shots, Split, make_split
from medfocus.fewshot.study.run import Masks, Run, Setting
from medfocus.fewshot.study.worker import StudyConfig, Worker, one_thread
from medfocus.settings import FocusMode

PROCESSES = 8  # at most: each holds the models and the images
NO_IMAGES = "none"  # the amount that zero-shot learns from


@dataclass(frozen=True)
class Grid:
    """Which settings a study runs: all combinations, and the ablations at the first amount.

    Attributes:
        focus: the modes.
        adaptations: `zero-shot` is run once a mode, whatever amounts and seeds there are.
        amounts: of training images, ascending.
        seeds: of the choice of training images and of the training.
        ablations: other masks, for each steered mode, at the smallest amount.
    """

    focus: tuple[FocusMode, ...]
    adaptations: tuple[Adaptation, ...]
    amounts: tuple[Fraction | Shots, ...]
    seeds: int
    ablations: tuple[Masks, ...]

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InputError(f"{self.seeds} seeds", "are too few", "take 1 or more")

    def settings(self, dataset: str, with_lesions: bool) -> Iterator[Setting]:
        """The settings of a data set; true masks only where it has lesions' masks."""
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
    """Run every setting that the folder does not hold yet, in processes of the worker's plan.

    Args:
        folder: gets `study.json`, `splits/` and `runs/`, a file each; what is there is not run
            again.
        worker: what it holds is what the folder's runs must have been made with.
        grid: which settings.
        progress: shows what is done.

    Raises:
        InputError: the folder is of another study, or a data set cannot be split.
        DeviceError: a process was killed.
        MedfocusError: of what a run raises. The runs before it are kept.
    """
    plan = worker.plan
    splits = _splits(plan, grid, progress)
    _check_identity(folder, worker, grid)
    for (dataset, amount, seed), split in splits.items():
        split.save(folder / "splits" / f"{dataset}.{_word(amount)}.{seed}.json")
    settings = [
        setting
        for name, dataset in plan.datasets.items()
        for setting in grid.settings(name, any(item.masks for item in dataset.items))
    ]
    runs = {setting: read_run(folder, setting) for setting in settings}
    missing = [setting for setting, run in runs.items() if run is None]
    task = progress.add_task(
        "adapting", total=len(settings), completed=len(settings) - len(missing)
    )
    if missing:
        # Spawned: a forked process would inherit torch's threads in whatever state they are.
        with ProcessPoolExecutor(
            1 if plan.device == "cuda" else min(os.cpu_count() or 1, PROCESSES, len(missing)),
            multiprocessing.get_context("spawn"),
            _start,
            (plan,),
        ) as pool:
            futures = [
                pool.submit(_work, folder, setting, _split_of(setting, grid, splits))
                for setting in missing
            ]
            try:
                for future in as_completed(futures):
                    run = future.result()
                    runs[run.setting] = run
                    progress.advance(task)
            except BrokenProcessPool as error:
                raise DeviceError(
                    "a process of the study",
                    "was killed, for want of memory perhaps",
                    "give the same command again with more memory: it goes on where it stopped",
                ) from error
            finally:
                _cancel(futures)
    return [run for run in runs.values() if run is not None]


def read_run(folder: Path, setting: Setting) -> Run | None:
    """A run that the folder holds, or None.

    Raises:
        InputError: a file that is no run.
    """
    path = _run_path(folder, setting)
    if not path.exists():
        return None
    try:
        run = Run.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(str(path), f"is no run ({error})", "delete it") from error
    if run.setting != setting:
        raise InputError(str(path), "is a run of another setting", "delete it")
    return run


Splits = Mapping[tuple[str, str, int], Split]


def _splits(plan: StudyConfig, grid: Grid, progress: Progress) -> Splits:
    wanted = [
        (name, amount, seed)
        for name in plan.datasets
        for amount in grid.amounts
        for seed in range(grid.seeds)
    ]
    return {
        (name, str(amount), seed): make_split(plan.datasets[name], amount, seed)
        for name, amount, seed in progress.track(wanted, description="splitting")
    }


def _split_of(setting: Setting, grid: Grid, splits: Splits) -> Split:
    """The split that a setting trains on; zero-shot shares the test images of all of them."""
    amount = str(grid.amounts[0]) if setting.amount == NO_IMAGES else setting.amount
    return splits[setting.dataset, amount, setting.seed]


def _check_identity(folder: Path, worker: Worker, grid: Grid) -> None:
    """A folder goes on with the study that it was begun with, and with no other."""
    plan, backbones = worker.plan, worker.backbones
    identity = {
        "preset": plan.preset,
        "clip": backbones.loaded.sha256,
        "sam2": backbones.segmenter_sha256,
        "text_folder": str(plan.weights.text_folder),
        "device": plan.device,
        "steps": plan.steps,
        "grid": {**asdict(grid), "amounts": [str(amount) for amount in grid.amounts]},
        "data": {name: fingerprint(dataset) for name, dataset in plan.datasets.items()},
    }
    text = json.dumps(identity, indent=1) + "\n"
    path = folder / "study.json"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise InputError(
            str(folder),
            "holds another study, or one of data or weights that have changed",
            "name another folder, or delete this one",
        )
    atomic_write(path, text)


_worker: Worker | None = None


def _start(plan: StudyConfig) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    one_thread()
    _worker = Worker(plan)


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


def _cancel(futures: Sequence[Future[Any]]) -> None:
    for future in futures:
        future.cancel()
