"""Writes the recorded numbers into the pages of the root and of docs/, or checks them.

python -m tools.docs            # from the root of a checkout; writes in place
python -m tools.docs --check    # changes nothing; exit code 1 when a number differs
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.docs.markers import filled

ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill or check every page; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, report differences")
    options = parser.parse_args(arguments)
    stale = False
    for page in pages():
        text, differing = filled(page.read_text("utf-8"))
        if options.check:
            for marker in differing:
                stale = True
                print(f"{page.relative_to(ROOT)}: differs: {marker}", file=sys.stderr)
        elif differing:
            page.write_text(text, "utf-8")
            print(page.relative_to(ROOT))
    return int(stale)


def pages() -> list[Path]:
    """The pages at the root and in docs/, and the model card."""
    below = sorted(page for folder in ("docs", "models") for page in (ROOT / folder).rglob("*.md"))
    return [*sorted(ROOT.glob("*.md")), *below]


if __name__ == "__main__":
    sys.exit(main())
