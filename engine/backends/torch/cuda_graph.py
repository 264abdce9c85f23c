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
    """

    pool: Any
    stream: torch.cuda.Stream


def captured(work: Callable[[], None], shared: Capture, name: str) -> torch.cuda.CUDAGraph | None:
    """Capture `work` as a CUDA graph; None, with a warning logged, if the capture fails.

    After a failure nothing more should be captured into the same pool.

    Args:
        work: called twice to warm up, then once for the capture.
        shared: see `Capture`.
        name: of the work, in the warning.
    """
    current = torch.cuda.current_stream()
    shared.stream.wait_stream(current)
    with torch.cuda.stream(shared.stream):  # compile and select kernels before the capture
        for _ in range(2):
            work()
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
