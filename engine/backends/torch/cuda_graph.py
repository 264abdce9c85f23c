"""Capturing a CUDA graph; a failed capture leaves later work unaffected."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

log = logging.getLogger(__name__)


class Capture(NamedTuple):
    """What the CUDA graphs of one stage share, across all batch buffers.

    They run one after another on the stage's stream, and their only results are those in the
    buffers, so they share a memory pool. Each stage captures on a stream of its own, because
    cuBLAS keeps one workspace per stream, which the graphs of two stages must not share.

    Attributes:
        pool: the handle of the CUDA graphs' memory pool.
        stream: the stream to capture on.
        warm: names of the work whose kernels are compiled, selected and loaded. The other batch
            buffers' graphs of that name have the same kernels.
    """

    pool: Any
    stream: torch.cuda.Stream
    warm: set[str]


def captured(work: Callable[[], None], shared: Capture, name: str) -> torch.cuda.CUDAGraph | None:
    """Capture `work` as a CUDA graph; None, with a warning logged, if the capture fails.

    After a failure nothing more should be captured into the same pool.

    Args:
        work: called twice to warm up, if no work of this name was, then once for the capture.
        shared: see `Capture`.
        name: of the work, with everything that its kernels depend on.
    """
    current = torch.cuda.current_stream()
    shared.stream.wait_stream(current)
    with torch.cuda.stream(shared.stream):
        for _ in range(0 if name in shared.warm else 2):
            work()
    shared.warm.add(name)
    torch.cuda.synchronize()
    graph, failed = torch.cuda.CUDAGraph(), False
    try:
        with torch.cuda.graph(
            graph, pool=shared.pool, stream=shared.stream, capture_error_mode="thread_local"
        ):
            work()
    except RuntimeError as error:
        log.warning("%s: CUDA graph capture failed, running eagerly (%s)", name, error)
        failed = True
    finally:
        # If ending the capture fails too, torch leaves the capture's stream current.
        torch.cuda.set_stream(current)
    torch.cuda.synchronize()
    return None if failed else graph
