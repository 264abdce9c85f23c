"""The part `export`: `medfocus-export` in a process of its own, and the engine that it wrote."""

from collections.abc import Callable
from pathlib import Path

from medfocus.benchmarks.bench import random_weights
from medfocus.benchmarks.bench.environment import Environment
from medfocus.benchmarks.bench.export_cost import measure
from medfocus.benchmarks.bench.report.rows import BenchRow
from medfocus.engine.artifact.directory import EngineDirectory, read_engine_directory
from medfocus.errors import InputError
from medfocus.models.presets import preset

PART = "export"
PRECISION = "fp32"


def export_part(
    name: str, folder: Path, environment: Environment, say: Callable[[str], object]
) -> tuple[EngineDirectory, BenchRow]:
    """Export a preset; where its weights are not shipped, with seeded random ones.

    Args:
        name: of the preset.
        folder: gets the engine, and the weights if there are any to be made.
        environment: where and when.
        say: called with what is done next.

    Raises:
        InputError: an unknown preset, or an export that failed.
    """
    arguments = ["--preset", preset(name).name, f"--{PRECISION}"]
    if name != "tiny":
        say(f"making random weights for {name}")
        random_weights.write(name, folder / "weights", regions=True)
        files = {"clip-weights": "clip.safetensors", "sam2-weights": "sam2.pt"}
        files["classes"] = "classes.txt"
        for option, file in files.items():
            arguments += [f"--{option}", str(folder / "weights" / file)]
        text = folder / "weights" / "text"
        arguments += ["--text-folder", str(text)] if text.exists() else []
    say(f"exporting {name}")
    engine = folder / name
    found = measure([*arguments, "-o", str(engine)])
    if found["status"]:
        raise InputError(f"preset {name}", f"was not exported: {found['error']}", "see to that")
    directory = read_engine_directory(engine)
    parity = directory.manifest.parity
    return directory, BenchRow(
        PART,
        f"medfocus-export --preset {name}",
        "medfocus-export",
        PRECISION,
        0,
        "",
        environment,
        rounds=1,
        p50_ms=1e3 * found["seconds"],
        times_ms=(1e3 * found["seconds"],),
        peak_memory=1024 * found["peak_gb"],
        accuracy=min((each.embedding_cosine for each in parity.values()), default=None),
        accuracy_of="cosine",
    )
