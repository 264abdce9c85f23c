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
# Of a processor, as Linux names them: what decides how fast its matrix products are.
INSTRUCTIONS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


@dataclass(frozen=True)
class Environment:
    """This machine and what is installed on it.

    Attributes:
        device: the GPU's name; None where there is none.
        driver: its version.
        processor: the CPU's name and its instructions for products.
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


def environment_of(root: Path, device: str = "cuda") -> Environment:
    """This machine, and the repository at `root`.

    Args:
        root: of the repository.
        device: what is measured; with `cpu` a GPU that is there does not count.
    """
    found = device == "cuda" and torch.cuda.is_available()
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
    """The model's name as Linux gives it, with those of `INSTRUCTIONS` that it has.

    A virtual machine's name can stand for very different processors.
    """
    try:
        return processor_of(Path("/proc/cpuinfo").read_text())
    except OSError:
        return platform.processor()


def processor_of(listing: str) -> str:
    """The same from what /proc/cpuinfo holds."""
    lines = [line.partition(":") for line in listing.splitlines()]
    fields = {name.strip(): value.strip() for name, _, value in lines}
    flags = fields.get("flags", "").split()
    found = " ".join(name for name in INSTRUCTIONS if name in flags)
    name = fields.get("model name") or platform.processor()
    return f"{name} ({found})" if found else name


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
