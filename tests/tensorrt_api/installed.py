"""The stand-ins installed as TensorRT and CUDA, for one test."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from medfocus.engine.runtime import cuda
from tests.tensorrt_api import library
from tests.tensorrt_api.device import Device

# Modules that import tensorrt at the top, or one that does.
USERS = (
    "medfocus.engine.backends.tensorrt.batch_buffers",
    "medfocus.engine.backends.tensorrt.plan_runner",
    "medfocus.export.tensorrt.builder",
)


@contextmanager
def installed(cache: Path) -> Iterator[Device]:
    """Import the modules that need TensorRT again, on the stand-ins.

    Args:
        cache: folder for the timing cache.
    """
    device = Device()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", library)
        patch.setattr(cuda, "_runtime", lambda: device)
        patch.setattr(cuda, "_driver", lambda: device)
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.setattr(library, "parser_errors", [])
        patch.setattr(library, "build_fails", False)
        patch.setattr(library, "seen", {})
        patch.setattr(library, "device", device)
        try:
            for name in USERS:
                sys.modules.pop(name, None)
            yield device
        finally:
            for name in USERS:
                sys.modules.pop(name, None)
