"""Benchmarks: speed and accuracy, compared with upstream's code and other implementations."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run `medfocus-bench`; without its optional packages, say which one to install."""
    try:
        from medfocus.benchmarks.bench.command import main as command
    except ModuleNotFoundError as error:
        package = (error.name or "a package").partition(".")[0]
        hint = "pip install 'medfocus[export,fewshot]'"
        print(f"medfocus-bench: {package} is not installed. Hint: {hint}", file=sys.stderr)
        return 2
    return command(argv)
