"""Measurements beside peers."""

import sys


def main() -> int:
    """`medfocus-bench`, or what is missing for it."""
    try:
        from medfocus.benchmarks.bench.command import main as command
    except ModuleNotFoundError as error:
        package = (error.name or "a package").partition(".")[0]
        hint = "pip install 'medfocus[export,fewshot]'"
        print(f"medfocus-bench: {package} is not installed. {hint}", file=sys.stderr)
        return 2
    return command()
