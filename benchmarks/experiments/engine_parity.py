"""Engines beside their float32 PyTorch model, on more phantoms than the export's gate takes.

    python -m medfocus.benchmarks.experiments.engine_parity REFERENCE ENGINE [ENGINE ...]
        -o benchmarks/results/cpu/engine_parity.json

REFERENCE is an engine in fp32 with the target torch; the others hold the same models and head.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from medfocus.engine.artifact.directory import EngineDirectory, read_engine_directory
from medfocus.engine.backends.registry import load_backend
from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import prepare
from medfocus.export.progress import ProgressReporter
from medfocus.export.validate.comparison import (
    Answers,
    Images,
    answers,
    batches,
    compare,
    mask_iou_alone,
)
from medfocus.phantoms import KINDS, ORGANS, make_phantom

SEEDS = 50_000_000  # nothing is trained, chosen or calibrated on phantoms from here


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(prog="python -m medfocus.benchmarks.experiments.engine_parity")
    parser.add_argument("reference", metavar="REFERENCE", type=Path)
    parser.add_argument("engines", metavar="ENGINE", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    rows = measure(options.reference, options.engines, options.images)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


def measure(reference: Path, engines: list[Path], count: int) -> list[dict[str, Any]]:
    """A row for each backend of each engine: `Parity` with its labels."""
    progress = ProgressReporter(Console(stderr=True))
    directory = read_engine_directory(reference)
    manifest = directory.manifest
    if manifest.backends.get("torch") != "fp32":
        raise SystemExit(f"{reference}: is no reference; export it with --fp32 --targets torch")
    drawn = [
        make_phantom(SEEDS + number, ORGANS[number % 3], KINDS[number % len(KINDS)])
        for number in range(count)
    ]
    images = Images(
        [
            prepare(
                SourceImage(phantom.image, ""),
                manifest.preprocessing,
                manifest.focus,
                manifest.prompts,
            )
            for phantom in drawn
        ],
        manifest.preprocessing,
        steered=manifest.focus.mode != "none",
    )
    one_by_one = [[row] for row in range(count)]
    expected, _ = _answers(directory, "torch", images, one_by_one, None, progress)
    rows = []
    for path in engines:
        directory = read_engine_directory(path)
        for name, precision in directory.manifest.backends.items():
            plan = list(batches(count, directory.manifest.buckets))
            found, alone = _answers(directory, name, images, plan, expected, progress)
            rows.append(
                {
                    "exported": directory.manifest.precision.dtype,
                    "backend": name,
                    "precision": precision,
                    "float32_blocks": list(directory.manifest.precision.float32_blocks),
                    **asdict(compare(found, expected, plan, alone, "cpu")),
                }
            )
    return rows


def _answers(
    directory: EngineDirectory,
    name: str,
    images: Images,
    plan: list[list[int]],
    expected: Answers | None,
    progress: ProgressReporter,
) -> tuple[Answers, float]:
    backend = load_backend(directory, name, "cpu")
    label = f"{directory.path.name}: {name}"
    with progress(label, sum(map(len, plan))) as advance:
        found = answers(backend, images, plan, expected, advance)
    alone = mask_iou_alone(backend, images, found, expected, plan) if expected else 1.0
    backend.close()
    return found, alone


if __name__ == "__main__":
    main()
