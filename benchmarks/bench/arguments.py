"""Types of `medfocus-bench`'s arguments."""

import argparse
import math
from collections.abc import Sequence


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def sizes(text: str) -> tuple[int, ...]:
    """Whole numbers from 1, with commas."""
    return tuple(sorted({positive(part.strip()) for part in text.split(",")}))


def positive_number(text: str) -> float:
    """Seconds, a price."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def names(text: str, of: Sequence[str]) -> tuple[str, ...]:
    """Some of the names, with commas, each once and in the order given."""
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in found:
        if name not in of:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(of)}")
    return found
