"""Tracebacks in the log, without the exceptions' texts: these may quote an image's data."""

import logging
import sys
import traceback
from types import TracebackType

# Of the libraries that run the service; our own log is set up by the command.
LOGGERS = ("asyncio", "grpc", "uvicorn.error")


class _WithoutText(logging.Formatter):
    def formatException(  # noqa: N802
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        kind, _, frames = ei
        name = "" if kind is None else f"{kind.__module__}.{kind.__qualname__}"
        return "".join(traceback.format_tb(frames)) + name


def log_errors_to_stderr() -> None:
    """Have what the service's libraries log, from warnings on, written to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_WithoutText("%(levelname)s: %(name)s: %(message)s"))
    handler.setLevel(logging.WARNING)
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
