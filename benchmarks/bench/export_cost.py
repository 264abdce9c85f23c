"""What an export costs: runs `medfocus-export` and records seconds by stage and peak memory.

    python -m medfocus.benchmarks.bench.export_cost -o benchmarks/results/cpu/export_cost.json
        -- --preset base --clip-weights FILE --sam2-weights FILE --classes FILE -o DIR

A row is added to the file; paths are left out of it.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from medfocus.benchmarks.bench.environment import processor

# A stage of the gate: running images, and not making or loading what runs them.
CHECKS = ("PyTorch's answers", "checking", "SAM2 at")
_STAGE = re.compile(r"^(\S.*?) +(\d+\.\d) s$", re.MULTILINE)


def main() -> None:
    """Run the export and add its row to the file."""
    parser = argparse.ArgumentParser(prog="python -m medfocus.benchmarks.bench.export_cost")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("arguments", nargs="+", metavar="ARGUMENT", help="of medfocus-export")
    options = parser.parse_args()
    row = measure(options.arguments)
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps([*rows, row], indent=1) + "\n")
    print(json.dumps(row))


def measure(arguments: list[str]) -> dict[str, Any]:
    """Seconds and gigabytes (2³⁰ bytes) of one export, in a process of its own."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "medfocus.export", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - begun
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    stages = {name: float(value) for name, value in _STAGE.findall(done.stderr)}
    checking = sum(value for name, value in stages.items() if name.startswith(CHECKS))
    return {
        "processor": processor(),
        "arguments": " ".join(_without_paths(arguments)),
        "status": done.returncode,
        "error": done.stderr.splitlines()[-1] if done.returncode else None,
        "seconds": round(seconds, 1),
        "seconds_without_checks": round(seconds - checking, 1),
        "peak_gb": round(peak, 2),
        "stages": stages,
    }


def _without_paths(arguments: list[str]) -> list[str]:
    paths = ("-o", "--clip-weights", "--sam2-weights", "--classes", "--text-folder", "--head")
    kept, skip = [], False
    for argument in arguments:
        if not skip and argument not in paths and argument != "--force":
            kept.append(argument)
        skip = argument in paths
    return kept


if __name__ == "__main__":
    main()
