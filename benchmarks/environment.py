"""Where and when something was measured."""

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = (
    "medfocus",
    "torch",
    "triton",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "sam2",
    "open_clip_torch",
    "transformers",
)


@dataclass(frozen=True)
class Environment:
    """This machine and what is installed on it.

    Attributes:
        device: the GPU's name; None where there is none.
        driver: its version.
        processor: the CPU's name.
        threads: CPUs that this process may use.
        python: its version.
        versions: of `PACKAGES`, those that are installed.
        revision: of the repository that the command ran in, "+" if it was changed since.
        date: day and minute, UTC.
    """

    device: str | None
    driver: str
    processor: str
    threads: int
    python: str
    versions: Mapping[str, str]
    revision: str
    date: str


def environment_of(root: Path) -> Environment:
    """This machine, and the repository at `root`."""
    found = torch.cuda.is_available()
    revision = _said("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")
    if revision != "unknown" and _said("git", "-C", str(root), "status", "--porcelain", "-uno"):
        revision += "+"
    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return Environment(
        device=torch.cuda.get_device_name() if found else None,
        driver=_said(*query).splitlines()[0] if found else "none",
        processor=processor(),
        threads=threads(),
        python=platform.python_version(),
        versions=_versions(),
        revision=revision,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
    )


def threads() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The model's name as Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {**found, "torch": torch.__version__}  # which names the CUDA that it was built for


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
