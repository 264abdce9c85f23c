"""`medfocus-bench`: what an engine does on this machine, beside its peers."""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from medfocus.benchmarks import models_command, pipeline_command
from medfocus.benchmarks.cli import INTERRUPTED, UNUSABLE
from medfocus.engine.results import printable
from medfocus.errors import MedfocusError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0; 1 where `--compare` found something worse; 2 for wrong usage or what cannot be loaded;
        130 for Ctrl-C.
    """
    options = _parse(argv)
    report = Console(stderr=True, highlight=False)
    try:
        status: int = options.run(options, report)
    except MedfocusError as error:
        report.print(printable(str(error)), markup=False)
        return UNUSABLE
    except KeyboardInterrupt:
        report.print("Interrupted: nothing was written")
        return INTERRUPTED
    return status


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="medfocus-bench", description=__doc__)
    parts = parser.add_subparsers(metavar="WHAT", required=True)
    for part in (models_command, pipeline_command):
        part.add_parser(parts)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
