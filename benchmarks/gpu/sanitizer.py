"""Our kernels under compute-sanitizer: accesses out of bounds, and races in shared memory.

As a program it is what the sanitizer watches: every kernel once, at small sizes that leave tiles
partly empty, in bfloat16 and in float32. Memory is not cached, so that each tensor has its own
bounds.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool racecheck --error-exitcode 99
        --kernel-name-exclude kns=at6native python -m medfocus.benchmarks.gpu.sanitizer
"""

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from medfocus.benchmarks.baselines.attention import Comparison, masked
from medfocus.benchmarks.baselines.encoder_blocks import focus, window
from medfocus.benchmarks.baselines.models import OURS
from medfocus.benchmarks.baselines.ragged import cls_row, ragged
from medfocus.benchmarks.baselines.resizing import resizing
from medfocus.benchmarks.gpu.process import status_of

PROGRAM = (sys.executable, "-m", __spec__.name)
SANITIZER = "compute-sanitizer"
# PyTorch and Triton probe the driver for optional features, and expect its errors.
TOOLS = {"memcheck": ("--report-api-errors", "no"), "racecheck": ()}
# PyTorch's own kernels, which make the inputs, are not watched. Naming ours instead would watch
# nothing at all wherever the name did not match.
EXCLUDED_KERNELS = ("--kernel-name-exclude", "kns=at6native")
NO_CACHING = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
FOUND = 99  # its exit status where it found something
UNSUPPORTED = "Device not supported"  # where the machine gives it no access


def sanitize(out: Path, limit: float) -> Iterator[str]:
    """Run both tools; yields what went wrong. Their output goes to sanitizer-<tool>.log in `out`.

    The program runs once by itself before them, so that no tool waits for Triton's compiler.

    Args:
        out: a folder.
        limit: seconds for all; each run may take its share of what is left.
    """
    sanitizer = shutil.which(SANITIZER)
    if sanitizer is None:
        print(f"sanitizer: not run, {SANITIZER} is not installed")
        return
    if limit <= 0:
        yield "sanitizer: not begun, the time was used up"
        return
    deadline = time.monotonic() + limit
    commands: dict[str, tuple[str, ...]] = {"unwatched": ()}
    for tool, options in TOOLS.items():
        watched = (sanitizer, "--tool", tool, *options, *EXCLUDED_KERNELS)
        commands[tool] = (*watched, "--error-exitcode", str(FOUND))
    for number, (tool, command) in enumerate(commands.items()):
        log = out / f"sanitizer-{tool}.log"
        share = (deadline - time.monotonic()) / (len(commands) - number)
        status = status_of([*command, *PROGRAM], share, log, NO_CACHING)
        if UNSUPPORTED in log.read_text(errors="replace"):
            print(f"sanitizer: not run, {SANITIZER} cannot watch this device")
            return
        if status is None:
            yield f"sanitizer: {tool} stopped at its time limit of {share:.0f} s"
        elif status:
            yield f"sanitizer: {tool} ended with {status}, see {log.name}"
        else:
            print(f"sanitizer: {tool} {'found nothing' if command else 'ran'}")


def small(dtype: torch.dtype, device: str) -> list[Comparison]:
    """Every kernel, at sizes that leave its last tiles partly empty."""
    return [
        masked(3, 2, 197, 64, dtype, device),
        masked(2, 1, 50, 80, dtype, device),
        ragged(6, 2, 150, 64, dtype, device),
        cls_row(5, 3, 197, 64, dtype, device),
        window("windows of 8", 1, 20, 96, 1, 8, False, dtype, device),
        window("padded windows of 14", 1, 20, 192, 2, 14, False, dtype, device),
        window("pooled windows of 8", 1, 20, 96, 1, 8, True, dtype, device),
        focus(5, 14, 64, 3, device),
        resizing(2, 37, 50, 64, device),
    ]


def launch(device: str) -> set[str]:
    """Run our implementations of all small comparisons; names of the kernels that ran as Triton.

    Raises:
        RuntimeError: on a GPU, one that fell back to PyTorch.
    """
    launched = set()
    for dtype in (torch.bfloat16, torch.float32):
        for comparison in small(dtype, device):
            for implementation in comparison.implementations:
                if implementation.name.startswith(OURS):
                    implementation.build()()
                    if implementation.path() == "triton":
                        launched.add(comparison.kernel)
                    elif device == "cuda":
                        raise RuntimeError(f"{comparison.kernel} ran as {implementation.path()}")
    return launched


if __name__ == "__main__":
    print("launched:", *sorted(launch("cuda")))
    torch.cuda.synchronize()
