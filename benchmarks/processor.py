"""Which processor a measurement was made on."""

import platform
from pathlib import Path


def processor() -> str:
    """The model's name as Linux gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor()
