"""Our kernels under compute-sanitizer: accesses out of bounds, and races in shared memory.

As a program it is what the sanitizer watches: every kernel once, at small sizes that fill no tile,
in bfloat16 and in float32. Memory is not cached, so that each tensor has bounds of its own.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool racecheck --error-exitcode 99
        --kernel-name-exclude kns=at6native python -m medfocus.benchmarks.gpu.sanitizer
"""

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from medfocus.benchmarks.baselines import pipeline as pipeline_peers
from medfocus.benchmarks.baselines import ragged as ragged_peers
from medfocus.benchmarks.baselines.attention import OURS, Comparison, masked
from medfocus.benchmarks.gpu.process import status_of

PROGRAM = (sys.executable, "-m", __spec__.name)
SANITIZER = "compute-sanitizer"
# PyTorch and Triton ask the driver for what it may not have, and take its errors for an answer.
TOOLS = {"memcheck": ("--report-api-errors", "no"), "racecheck": ()}
# PyTorch's own kernels, which make the inputs, run unwatched. To name ours instead would watch
# nothing at all, and find nothing, wherever the name did not match.
UNWATCHED_KERNELS = ("--kernel-name-exclude", "kns=at6native")
NO_CACHING = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
FOUND = 99  # its exit status where it found something
UNWATCHED = "Device not supported"  # where the machine gives it no access


def sanitize(out: Path, limit: float) -> Iterator[str]:
    """Run both tools; yields what went wrong. Their words go into sanitizer-<tool>.log in `out`.

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
    commands: dict[str, tuple[str, ...]] = {"alone": ()}
    for tool, options in TOOLS.items():
        watched = (sanitizer, "--tool", tool, *options, *UNWATCHED_KERNELS)
        commands[tool] = (*watched, "--error-exitcode", str(FOUND))
    for number, (tool, command) in enumerate(commands.items()):
        log = out / f"sanitizer-{tool}.log"
        share = (deadline - time.monotonic()) / (len(commands) - number)
        status = status_of([*command, *PROGRAM], share, log, NO_CACHING)
        if UNWATCHED in log.read_text(errors="replace"):
            print(f"sanitizer: not run, {SANITIZER} cannot watch this device")
            return
        if status is None:
            yield f"sanitizer: {tool} stopped at its time limit of {share:.0f} s"
        elif status:
            yield f"sanitizer: {tool} ended with {status}, see {log.name}"
        else:
            print(f"sanitizer: {tool} {'ran' if tool == 'alone' else 'found nothing'}")


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
