"""Tables of rows that `medfocus-bench --json` wrote."""

from typing import Any

from medfocus.benchmarks.bench.report.rows import read_json
from medfocus.benchmarks.bench.report.table import columns
from medfocus.benchmarks.bench.timing.clock import ratio
from tools.docs.results import RESULTS, read, table

Row = dict[str, Any]
AUTOCAST = "sam2 + open_clip, autocast"


def bench(run: str) -> str:
    """All rows of one run below results/cpu, and where and when it was."""
    rows = read_json(RESULTS / f"cpu/{run}.json")
    where = rows[0].environment
    versions = ", ".join(f"{name} {version}" for name, version in where.versions.items())
    place = f"{where.device or where.processor}, {where.threads} threads, {where.date} UTC"
    head = f"{place}, revision {where.revision}; Python {where.python}, {versions}."
    missing = [f"- not measured: {row.name}: {row.status}" for row in rows if not row.measured]
    body = table(*columns([row for row in rows if row.measured]))
    return "\n\n".join([head, body, *(["\n".join(missing)] if missing else [])])


def speed(*quoted: str) -> str:
    """Rates of both models, compared with upstream in float32 and under autocast in the same run.

    The ratio to float32 is the recorded one; that to autocast is computed from the rounds' times.

    Args:
        quoted: `preset, backend, precision, batch`: `tiny, openvino, bf16, 8`.
    """
    names = ("engine", "processor", "images/s", "× upstream float32", "× upstream autocast bf16")
    lines = []
    for each in quoted:
        preset, backend, precision, batch = each.split(", ")
        rows = {
            (_name(row), row["precision"]): row
            for row in read(f"cpu/{preset}/models.json")
            if (row["what"], row["batch"]) == ("both models", int(batch))
        }
        ours = rows[f"medfocus, {backend}", precision]
        lines.append(
            [
                f"`{preset}`, {backend}, {precision}, batch {batch}",
                ours["environment"]["processor"].replace(" avx512f avx512_vnni", ""),
                f"{ours['images_per_second']:.3g}",
                "{:.2f} [{:.2f}, {:.2f}]".format(*ours["ratio"]),
                _times(ours, rows.get((AUTOCAST, "bf16"))),
            ]
        )
    return table(names, lines)


def stream_speed(run: str) -> str:
    """`Engine.stream`, files to answers, compared with PyTorch one image at a time."""
    lines, stream = [], None
    for row in read(f"cpu/{run}.json"):
        name = _name(row)
        if name.endswith("Engine.stream") and row["what"] == "files to answers":
            stream = row
        elif stream is not None and name.endswith("one by one"):
            cells = [f"{each['images_per_second']:.3g}" for each in (stream, row)]
            ours = f"{_name(stream)}, {stream['precision']}"
            lines.append([ours, name, *cells, _times(stream, row)])
    return table(("", "compared with", "images/s", "its images/s", "ratio"), lines)


def _name(row: Row) -> str:
    name: str = row["implementation"] if "implementation" in row else row["contender"]
    return name


def _times(ours: Row, theirs: Row | None) -> str:
    """Images per second of one over those of another, round by round, with a 95% interval."""
    if theirs is None:
        return "not measured"
    per_image = ([ms / row["batch"] for ms in row["times_ms"]] for row in (theirs, ours))
    median, low, high = ratio(*per_image)
    return f"{median:.2f} [{low:.2f}, {high:.2f}]"
