"""Our kernels under compute-sanitizer: accesses out of bounds, and races in shared memory.

As a program it is what the sanitizer watches: every kernel once, at small sizes that fill no tile,
in bfloat16 and in float32. Memory is not cached, so that each tensor has bounds of its own.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool racecheck --error-exitcode 99
        python -m medfocus.benchmarks.gpu_sanitizer
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from medfocus.benchmarks import pipeline_peers, ragged_peers
from medfocus.benchmarks.kernel_peers import OURS, Comparison, masked

SANITIZER = "compute-sanitizer"
# PyTorch and Triton ask the driver for what it may not have, and take its errors for an answer.
TOOLS = {"memcheck": ("--report-api-errors", "no"), "racecheck": ()}
FOUND = 99  # its exit status where it found something
UNWATCHED = "Device not supported"  # where the machine gives it no access


def sanitize(out: Path, limit: float) -> Iterator[str]:
    """Run both tools; yields what went wrong. Their words go into sanitizer-<tool>.log in `out`.

    Args:
        out: a folder.
        limit: seconds for each tool.
    """
    program = shutil.which(SANITIZER)
    if program is None:
        print(f"sanitizer: not run, {SANITIZER} is not installed")
        return
    if limit <= 0:
        yield "sanitizer: not begun, the time was used up"
        return
    for tool, options in TOOLS.items():
        log = out / f"sanitizer-{tool}.log"
        command = [program, "--tool", tool, *options, "--error-exitcode", str(FOUND)]
        status = _watched([*command, sys.executable, "-m", __spec__.name], log, limit)
        if UNWATCHED in log.read_text(errors="replace"):
            print(f"sanitizer: not run, {SANITIZER} cannot watch this device")
            return
        if status is None:
            yield f"sanitizer: {tool} stopped at its time limit of {limit:.0f} s"
        elif status:
            yield f"sanitizer: {tool} ended with {status}, see {log.name}"
        else:
            print(f"sanitizer: {tool} found nothing")


def _watched(command: list[str], log: Path, limit: float) -> int | None:
    """The exit status; None after `limit` seconds, when the program is killed with its child."""
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    with log.open("wb") as words:
        process = subprocess.Popen(
            command, stdout=words, stderr=words, env=environment, start_new_session=True
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None


def small(dtype: torch.dtype, device: str) -> list[Comparison]:
    """Every kernel, in `dtype` on `device`, at sizes that leave its last tiles partly empty."""
    return [
        masked(3, 2, 197, 64, dtype, device),
        masked(2, 1, 50, 80, dtype, device),
        ragged_peers.ragged(6, 2, 150, 64, dtype, device),
        ragged_peers.cls_row(5, 3, 197, 64, dtype, device),
        pipeline_peers.window("windows of 8", 1, 20, 96, 1, 8, False, dtype, device),
        pipeline_peers.window("padded windows of 14", 1, 20, 192, 2, 14, False, dtype, device),
        pipeline_peers.window("pooled windows of 8", 1, 20, 96, 1, 8, True, dtype, device),
        pipeline_peers.focus(5, 14, 64, 3, device),
    ]


def launch(device: str) -> set[str]:
    """Run our contenders of all small comparisons; the names of the kernels that ran as Triton.

    Raises:
        RuntimeError: on a GPU, one that fell back to PyTorch.
    """
    launched = set()
    for dtype in (torch.bfloat16, torch.float32):
        for comparison in small(dtype, device):
            for contender in comparison.contenders:
                if contender.name.startswith(OURS):
                    contender.build()()
                    if contender.path() == "triton":
                        launched.add(comparison.kernel)
                    elif device == "cuda":
                        raise RuntimeError(f"{comparison.kernel} ran as {contender.path()}")
    return launched


if __name__ == "__main__":
    print("launched:", *sorted(launch("cuda")))
    torch.cuda.synchronize()
