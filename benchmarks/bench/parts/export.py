"""The part `export`: `medfocus-export` in its own process, and the engine that it wrote."""

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from medfocus.benchmarks.bench import random_weights
from medfocus.benchmarks.bench.environment import Environment
from medfocus.benchmarks.bench.report.rows import BenchRow
from medfocus.engine.artifact.directory import EngineDirectory, read_engine_directory
from medfocus.errors import MedfocusError
from medfocus.models.presets import preset

PART, PRECISION, COMMAND = "export", "fp32", "medfocus-export"
FILES = {"clip-weights": "clip.safetensors", "sam2-weights": "sam2.pt", "classes": "classes.txt",
         "text-folder": "text"}  # fmt: skip


class ExportRun(NamedTuple):
    """A finished export: its seconds, the largest child process's MiB, and why it failed if so."""

    seconds: float
    peak_memory: float
    error: str | None


def run_export(arguments: Sequence[str]) -> ExportRun:
    """Run `medfocus-export` in its own process."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "medfocus.export", *arguments]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seconds = time.monotonic() - begun
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    lines = done.stderr.splitlines() or [f"exit status {done.returncode}"]
    return ExportRun(seconds, peak, lines[-1] if done.returncode else None)


def export_part(
    name: str, folder: Path, environment: Environment, report: Callable[[str], object]
) -> tuple[EngineDirectory, BenchRow]:
    """Export a preset into `folder`; where its weights are not shipped, with seeded random ones.

    Raises:
        MedfocusError: an unknown preset, or an export that failed.
    """
    arguments = ["--preset", preset(name).name, f"--{PRECISION}"]
    if name != "tiny":
        report(f"making random weights for {name}")
        weights = folder / "weights"
        random_weights.write(name, weights, regions=True)
        for option, file in FILES.items():
            if (weights / file).exists():  # only some presets have a text folder
                arguments += [f"--{option}", str(weights / file)]
    report(f"exporting {name}")
    engine = folder / name
    found = run_export([*arguments, "-o", str(engine)])
    if found.error is not None:
        problem, hint = f"was not exported: {found.error}", f"{COMMAND} --preset {name}"
        raise MedfocusError(f"preset {name}", problem, hint, code="bench.export_failed")
    directory = read_engine_directory(engine)
    parity = directory.manifest.parity.values()
    return directory, BenchRow(
        PART,
        f"{COMMAND} --preset {name}",
        COMMAND,
        PRECISION,
        0,
        "",
        environment,
        rounds=1,
        p50_ms=1e3 * found.seconds,
        times_ms=(1e3 * found.seconds,),
        peak_memory=found.peak_memory,
        accuracy=min((each.embedding_cosine for each in parity), default=None),
        accuracy_of="cosine",
    )
