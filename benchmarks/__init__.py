"""Benchmarks: speed and accuracy, compared with upstream's code and other implementations."""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run `medfocus-bench`."""
    from medfocus.command import run_command

    return run_command("bench", argv)
