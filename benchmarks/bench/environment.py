"""Where and when something was measured."""

import os
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("medfocus", "torch", "triton", "onnxruntime", "openvino", "tensorrt", "sam2",
            "open_clip_torch", "transformers")  # fmt: skip
# Flags of /proc/cpuinfo that decide how fast a processor's matrix products are.
INSTRUCTIONS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


@dataclass(frozen=True)
class Environment:
    """This machine and the installed packages.

    Attributes:
        device: the GPU's name; None without one.
        driver: the GPU driver's version.
        processor: the CPU's name and its instructions for matrix products.
        threads: CPUs that this process may use.
        python: version of Python.
        versions: of the installed ones of `PACKAGES`.
        revision: git revision of the current repository, with "+" where files were changed.
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
    """This machine, and the git repository at `root`; with device `cpu` a GPU is left out."""
    found = device == "cuda" and torch.cuda.is_available()
    revision = _output("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")
    if revision != "unknown" and _output("git", "-C", str(root), "status", "--porcelain", "-uno"):
        revision += "+"
    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    versions = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return Environment(
        device=torch.cuda.get_device_name() if found else None,
        driver=_output(*query).splitlines()[0] if found else "none",
        processor=processor(),
        threads=len(os.sched_getaffinity(0)),
        python=platform.python_version(),
        versions={**versions, "torch": torch.__version__},  # with the CUDA it was built for
        revision=revision,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
    )


def processor() -> str:
    """The processor's name with those of `INSTRUCTIONS` that it has.

    A virtual machine's name can stand for very different processors.
    """
    try:
        return processor_of(Path("/proc/cpuinfo").read_text())
    except OSError:
        return platform.processor()


def processor_of(listing: str) -> str:
    """As `processor`, from the text of /proc/cpuinfo."""
    lines = [line.partition(":") for line in listing.splitlines()]
    fields = {name.strip(): value.strip() for name, _, value in lines}
    flags = fields.get("flags", "").split()
    found = " ".join(name for name in INSTRUCTIONS if name in flags)
    name = fields.get("model name") or platform.processor()
    return f"{name} ({found})" if found else name


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
