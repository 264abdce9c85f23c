"""Devices by name: `cpu`, `cuda` for the first GPU, `cuda:1` for the second."""

import argparse
import ctypes
import re
from pathlib import Path
from typing import Literal

from medfocus.engine.runtime import cuda
from medfocus.errors import InputError, MedfocusError
from medfocus.settings import Device

_GPU = re.compile(r"cuda(?::(\d{1,3}))?")


def parsed(device: str) -> tuple[Literal["auto"] | Device, int]:
    """The kind of a device and, of a GPU, its number from 0, as CUDA counts those it can see.

    Raises:
        InputError: no name of a device (`device.unknown`).
    """
    if device == "auto":
        return "auto", 0
    if device == "cpu":
        return "cpu", 0
    match = _GPU.fullmatch(device) if isinstance(device, str) else None
    if match is None:
        hint = "use auto, cpu, cuda, or cuda:1 for the second GPU"
        raise InputError(f"device {device!r}", "is not known", hint, code="device.unknown")
    return "cuda", int(match[1] or 0)


def device_option(text: str) -> str:
    """A `type` of argparse: the name of a device."""
    try:
        parsed(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no device: {error.hint}") from None
    return text


def device_name(kind: Device, ordinal: int) -> str:
    """`cpu`, `cuda` for the first GPU, `cuda:1` for the second."""
    return f"{kind}:{ordinal}" if ordinal else kind


def has_gpu_driver() -> bool:
    """Whether NVIDIA's driver is installed, which every runtime needs to use a GPU.

    Asked before any of them is imported, which takes seconds and hundreds of megabytes.
    """
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def processor_name(kind: str, ordinal: int) -> str | None:
    """The name of the CPU, or of a GPU; None where it cannot be found."""
    if kind == "cuda":
        try:
            return cuda.name(ordinal)
        except MedfocusError:
            return None
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    match = re.search(r"^model name\s*:\s*(\S.*)$", text, re.MULTILINE)  # not on every CPU
    return match[1].strip() if match else None


def require_gpu(ordinal: int, count: int, finder: str) -> None:
    """Check that there is such a GPU.

    Args:
        ordinal: its number, from 0.
        count: how many there are.
        finder: what counted them.

    Raises:
        InputError: there is not (`device.unavailable`).
    """
    if ordinal < count:
        return
    found = "no CUDA device" if not count else f"{count} CUDA device{'s' if count > 1 else ''}"
    names = [device_name("cuda", number) for number in range(count)]
    raise InputError(
        f"device {device_name('cuda', ordinal)}",
        f"{finder} finds {found}",
        f"use {', '.join([*names, 'cpu'])} or auto",
        code="device.unavailable",
    )
