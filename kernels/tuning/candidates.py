"""Compiles candidates in processes of their own, ahead of their launch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import TimeoutError, get_context
from multiprocessing.pool import AsyncResult

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from medfocus.kernels.compiler import Compiled, compile_as_launched
from medfocus.kernels.tile import Tile, TileKey
from medfocus.kernels.tuning.case import problems
from medfocus.kernels.tuning.cases import CASES

# What became of a candidate: a result per case, by its number; or why it cannot be used.
Outcome = dict[int, Compiled] | str
# Takes an entry, candidates and the numbers of the entry's cases to compile, and returns a function
# that waits for the outcomes.
Request = Callable[[TileKey, Sequence[Tile], Sequence[int]], Callable[[], dict[Tile, Outcome]]]

PATIENCE = 30.0  # seconds to wait for one compilation, after which its candidate is left out


class _Target:
    """What Triton asks of a driver to compile for a GPU; there need not be one."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_for_launches(architecture: int) -> None:
    """Have this process compile for an architecture; it can launch nothing any more."""
    torch.set_num_threads(1)
    driver.set_active(_Target(architecture))


@contextmanager
def compiling(architecture: int, processes: int, left: Callable[[], float]) -> Iterator[Request]:
    """A function that compiles candidates in the order of its calls.

    Its results are waited for while `left` returns more than 0 seconds. At the end of the `with`
    block the processes are ended, whatever they are compiling.
    """
    # Spawned, since neither PyTorch's threads nor a CUDA context survive a fork.
    context = get_context("spawn")
    with context.Pool(processes, compile_for_launches, (architecture,)) as pool:

        def request(
            key: TileKey, tiles: Sequence[Tile], numbers: Sequence[int]
        ) -> Callable[[], dict[Tile, Outcome]]:
            pending = {
                tile: {n: pool.apply_async(compile_case, (key, tile, n)) for n in numbers}
                for tile in tiles
            }
            return lambda: {tile: _wait(results, left) for tile, results in pending.items()}

        yield request


def _wait(results: Mapping[int, AsyncResult[Compiled | str]], left: Callable[[], float]) -> Outcome:
    compiled = {}
    for number, result in results.items():
        try:
            found = result.get(max(0.0, min(PATIENCE, left())))
        except TimeoutError:
            return "not compiled in time"
        if isinstance(found, str):
            return found
        compiled[number] = found
    return compiled


def compile_case(key: TileKey, tile: Tile, number: int) -> Compiled | str:
    """Compile one of an entry's cases in this process; or why its tile should not be used."""
    case = CASES[key.kernel](key, tile)[number]
    try:
        compiled = compile_as_launched(
            case.function, case.types, case.constants, tile.warps, tile.stages
        )
    except Exception:  # whatever the compiler raises, only this candidate is lost
        return "does not compile"
    return next(problems(case, compiled, key.architecture), compiled)
