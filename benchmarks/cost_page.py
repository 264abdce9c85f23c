"""Writes what a million images cost, from rows that `medfocus-bench --json` wrote.

    python -m medfocus.benchmarks.cost_page ROWS.json --price 2.50 -o cost.md

The price is that of an hour of the machine that was measured, in whatever currency. With
`--simulation`, also what `medfocus.benchmarks.simulation` says of more devices and slower disks.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from medfocus.benchmarks.cli import positive_number
from medfocus.benchmarks.models_part import BOTH
from medfocus.benchmarks.page import table
from medfocus.benchmarks.pipeline_part import WHOLE
from medfocus.benchmarks.rows import Row, read_json
from medfocus.errors import InputError, MedfocusError

IMAGES = 1_000_000
HOUR = 3600
COST = ("images/s", "time", "money")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; 2 for files that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m medfocus.benchmarks.cost_page")
    parser.add_argument("rows", metavar="ROWS.json", type=Path)
    parser.add_argument("--price", type=positive_number, required=True, help="of an hour")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--simulation", type=Path, help="what that program wrote")
    options = parser.parse_args(arguments)
    try:
        text = page(read_json(options.rows), options.price)
        if options.simulation:
            text += simulated(options.simulation, options.price)
        options.out.write_text(text, "utf-8")
    except MedfocusError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"{options.out}: cannot be written ({error.strerror})", file=sys.stderr)
    else:
        return 0
    return 2


def page(rows: Sequence[Row], price: float) -> str:
    """What was measured, dearest last.

    Args:
        rows: those of both models, and of files to answers.
        price: of an hour.

    Raises:
        InputError: no row has such a rate.
    """
    rates = [
        (row, rate)
        for row in rows
        if row.what in (BOTH, WHOLE) and not row.setting and (rate := row.images_per_second)
    ]
    if not rates:
        raise InputError(
            "the rows", "have no rate of both models", "measure models or pipeline first"
        )
    rates.sort(key=lambda pair: -pair[1])
    where = rates[0][0].environment
    lines = [
        [
            f"{row.contender}, {row.precision}",
            row.what,
            row.batch,
            *_cost(rate, price),
        ]
        for row, rate in rates
    ]
    names = ("contender", "what", "batch", *COST)
    return (
        f"# What {IMAGES:,} images cost\n\n"
        f"{where.device or where.processor}, {where.threads} threads, {where.date} UTC;"
        f" {price:g} an hour.\n\n{table(names, lines)}\n"
    )


def simulated(path: Path, price: float) -> str:
    """What is predicted for other places.

    Args:
        path: of what `medfocus.benchmarks.simulation` wrote.
        price: of an hour of a device.

    Raises:
        InputError: a file that cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
        lines = [_simulated(row["place"], row["predicted"], price) for row in found["elsewhere"]]
        off, engine = found["furthest_off"], found["engine"]
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})", "check it") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            str(path), "holds no simulation", "give what medfocus.benchmarks.simulation wrote"
        ) from error
    return (
        "\n## Elsewhere, by simulation\n\n"
        f"`{engine}`; each device costs as much as the one measured. Predictions were at most"
        f" {off:.1%} off where they could be checked.\n\n"
        f"{table(('reading threads', 'devices', 'a read takes longer by', *COST), lines)}\n"
    )


def _simulated(place: dict[str, Any], rate: float, price: float) -> list[Any]:
    slower = f"{1e3 * place['slower_read']:.0f} ms"
    return [place["hosts"], place["devices"], slower, *_cost(rate, price * place["devices"])]


def _cost(rate: float, price: float) -> list[str]:
    seconds = IMAGES / rate
    return [f"{rate:,.4g}", _length(seconds), f"{price * seconds / HOUR:,.2f}"]


def _length(seconds: float) -> str:
    """Days, hours and minutes."""
    minutes = round(timedelta(seconds=seconds) / timedelta(minutes=1))
    days, hours = minutes // (24 * 60), minutes // 60 % 24
    return f"{days} d {hours} h" if days else f"{hours} h {minutes % 60} min"


if __name__ == "__main__":
    sys.exit(main())
