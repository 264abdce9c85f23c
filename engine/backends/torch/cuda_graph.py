"""One CUDA graph captured, or refused without harm to what runs afterwards."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

log = logging.getLogger(__name__)


class Capture(NamedTuple):
    """What the CUDA graphs of a stage, of all batch buffers, have in common.

    They run one after another on the stage's stream and leave nothing behind but what they write
    into buffers, so they share memory. They are captured on a stream of their own, for cuBLAS
    keeps a workspace a stream, which two stages' graphs must not share.
    """

    pool: Any
    stream: torch.cuda.Stream


def captured(work: Callable[[], None], shared: Capture, name: str) -> torch.cuda.CUDAGraph | None:
    """Work as a CUDA graph; None, and a warning, where the capture is refused.

    Into the pool of a capture that was refused nothing more should be captured.

    Args:
        work: is done twice before, then once as a capture.
        shared: see `Capture`.
        name: what the warning calls the work.
    """
    current = torch.cuda.current_stream()
    shared.stream.wait_stream(current)
    with torch.cuda.stream(shared.stream):  # kernels are compiled and chosen beforehand
        for _ in range(2):
            work()
    torch.cuda.synchronize()
    graph, refused = torch.cuda.CUDAGraph(), False
    try:
        with torch.cuda.graph(
            graph, pool=shared.pool, stream=shared.stream, capture_error_mode="thread_local"
        ):
            work()
    except RuntimeError as error:
        log.warning("%s: no CUDA graph, it runs without (%s)", name, error)
        refused = True
    finally:
        # Where a capture cannot be ended either, torch leaves its stream as this thread's.
        torch.cuda.set_stream(current)
    torch.cuda.synchronize()
    return None if refused else graph
