"""`medfocus bench`: measures, shows a table, writes files and compares with an earlier run."""

import argparse
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from medfocus.benchmarks.baselines.implementations import BASELINES
from medfocus.benchmarks.bench.environment import Environment, environment_of
from medfocus.benchmarks.bench.failures import first_line
from medfocus.benchmarks.bench.options import BenchOptions
from medfocus.benchmarks.bench.parts.export import export_part
from medfocus.benchmarks.bench.parts.kernels import kernels_part
from medfocus.benchmarks.bench.parts.models import models_part
from medfocus.benchmarks.bench.parts.pipeline import pipeline_part
from medfocus.benchmarks.bench.parts.scaling import scaling_part
from medfocus.benchmarks.bench.parts.startup import startup_part
from medfocus.benchmarks.bench.report.regressions import regressions
from medfocus.benchmarks.bench.report.rows import BenchRow, read_json, write_csv, write_json
from medfocus.benchmarks.bench.report.table import bench_table, missing_lines
from medfocus.command_line import command_parser, print_error, run, whole_number
from medfocus.engine.artifact.directory import EngineDirectory, read_engine_directory
from medfocus.engine.artifact.layout import HEAD_WEIGHTS
from medfocus.engine.backends.registry import NAMES
from medfocus.errors import InputError, MedfocusError
from medfocus.exit_codes import ExitCode
from medfocus.files.file_errors import unwritable
from medfocus.terminal import printable

MAX_WIDTH = 200  # columns of a table
# In this order; `scaling` takes longer than all others together.
PARTS: dict[str, Callable[[BenchOptions], Iterator[BenchRow]]] = {
    "models": models_part,
    "pipeline": pipeline_part,
    "startup": startup_part,
    "kernels": kernels_part,
    "scaling": scaling_part,
}
ALL = ("export", "models", "pipeline", "startup", "kernels")


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns its exit code."""
    return run("bench", parser(), _bench, argv, prog)


def _bench(options: argparse.Namespace, console: Console) -> int:
    warnings.filterwarnings("ignore", r"`torch\.jit", FutureWarning)  # sam2's
    rows: list[BenchRow] = []
    interrupted = False
    old = None if options.compare is None else read_json(options.compare)
    _prepare_outputs(options)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=None)
        try:
            _measure(options, rows, lambda line: progress.update(task, description=line))
        except KeyboardInterrupt:
            interrupted = True
    _show(rows, console)
    _write(options, rows)
    if interrupted:
        print_error(f"interrupted; {len(rows)} rows were measured")
        return ExitCode.INTERRUPTED
    if not any(row.measured for row in rows):
        return ExitCode.SOME_FAILED
    worse = [] if old is None else regressions(old, rows)
    print_error(*(f"{row.name}: {problem}" for row, problem in worse))
    return ExitCode.SOME_FAILED if worse else ExitCode.OK


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser(
        "bench",
        "Measure an engine on this machine, compared with upstream's code (sam2 and open_clip):"
        " speed, memory and accuracy.",
        "medfocus bench    everything, on the shipped models; takes three minutes\n"
        "medfocus bench models --engine engines/mine --json new.json --compare old.json",
        {ExitCode.SOME_FAILED: "--compare found something worse, or nothing could be measured"},
    )
    # fmt: off
    add = parser.add_argument
    add("what", metavar="PART", nargs="?", choices=("all", "export", *PARTS), default="all",
        help="export: medfocus-export's time and memory; models: both models, each and together;"
        " pipeline: Engine.stream, from files to predictions; startup: from the start of a process"
        " to its first prediction; kernels: on a GPU; scaling: batch, image size, prompts, classes,"
        " callers; all: all of these but scaling (default: all)")
    add = parser.add_argument_group("what is measured").add_argument
    add("--engine", metavar="DIR", type=Path, action="append", default=[],
        help="engine directory, exported for torch among others; repeat it for engines of the same"
        " models in other precisions (default: one is exported from --preset)")
    add("--preset", metavar="NAME", default="tiny",
        help="preset to export; random weights where none are shipped (default: tiny)")
    add("--backends", metavar="LIST", type=partial(_names, of=NAMES),
        help=f"backends, of {', '.join(NAMES)} (default: all that the engines have)")
    add("--baselines", "--peers", metavar="LIST", type=partial(_names, of=tuple(BASELINES)),
        default=("upstream", "autocast"),
        help=f"what to compare with, of {', '.join(BASELINES)}; upstream is sam2 and open_clip in"
        " float32, autocast the same in bf16 or fp16; `models` reports speed ratios to each, other"
        " parts to the first (default: upstream,autocast; --peers is the old name)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="to measure on (default: cpu)")
    add("--batch", dest="batches", metavar="LIST", type=_sizes, default=(8,),
        help="batch sizes for `models`, in images, as 1,8 (default: 8)")
    add("--images", metavar="N", type=whole_number(), default=48,
        help="images per round of `pipeline` (default: 48)")
    add("--seconds", metavar="S", type=_positive_number, default=6.0,
        help="seconds to measure each case; six rounds at least (default: 6)")
    add = parser.add_argument_group("output (each is written only if asked for)").add_argument
    add("--json", metavar="FILE", type=Path, help="write the rows as JSON, for --compare")
    add("--csv", metavar="FILE", type=Path, help="write the rows as CSV")
    add("--plot", dest="plots", metavar="DIR", type=Path, help="write pictures (PNG) to a folder")
    add("--trace", metavar="FILE", type=Path,
        help="write a trace of `pipeline`, for Perfetto or chrome://tracing")
    add("--compare", metavar="OLD.json", type=Path,
        help="compare with an earlier run of this machine: list rows that are slower, less"
        " accurate, larger in memory or missing, and exit with 1 if there are any")
    # fmt: on
    return parser


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted({whole_number()(part.strip()) for part in text.split(",")}))


def _positive_number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _names(text: str, of: Sequence[str]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in found:
        if name not in of:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(of)}")
    return found


def _measure(
    options: argparse.Namespace, rows: list[BenchRow], report: Callable[[str], object]
) -> None:
    """Append the rows as they are measured."""
    environment = environment_of(Path.cwd(), options.device)
    wanted = ALL if options.what == "all" else (options.what,)
    with ExitStack() as stack:
        engines = tuple(read_engine_directory(path) for path in options.engine)
        if not engines or "export" in wanted:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            try:
                exported, row = export_part(options.preset, folder, environment, report)
            except MedfocusError as error:
                if not engines:
                    raise
                row = BenchRow("export", options.preset, "", "", 0, "", environment, str(error))
            else:
                engines = engines or (exported,)
            rows.extend([row] if "export" in wanted else [])
        bench_options = _bench_options(options, engines, environment, report)
        for name in wanted:
            if name == "export":
                continue
            try:
                rows.extend(PARTS[name](bench_options))  # keeps the rows before an interrupt
            except Exception as error:  # of any runtime: the other parts are still measured
                rows.append(BenchRow(name, name, "", "", 0, "", environment, first_line(error)))


def _bench_options(
    options: argparse.Namespace,
    engines: tuple[EngineDirectory, ...],
    environment: Environment,
    report: Callable[[str], object],
) -> BenchOptions:
    for engine in engines[1:]:
        if _answers(engine) != _answers(engines[0]):
            names = f"{engine.path.name} and {engines[0].path.name}"
            problem = f"{names} differ in models, head, focus, prompts or classes"
            hint = "measure them in separate runs"
            raise InputError("--engine", problem, hint, code="bench.not_comparable")
    for backend in options.backends or ():
        if not any(backend in engine.manifest.backends for engine in engines):
            raise InputError(
                f"--backends {backend}", "no engine was exported for it", "leave it out"
            )
    chosen = ("backends", "baselines", "device", "batches", "images", "seconds", "trace", "plots")
    given = {name: getattr(options, name) for name in chosen}
    return BenchOptions(engines=engines, environment=environment, report=report, **given)


def _answers(engine: EngineDirectory) -> tuple[object, ...]:
    """What decides an engine's answers, except its precision."""
    manifest = engine.manifest
    graphs = (manifest.models, manifest.focus, manifest.selection, manifest.prompts)
    head = manifest.files.get(HEAD_WEIGHTS)
    return *graphs, manifest.preprocessing, manifest.classes, head


def _prepare_outputs(options: argparse.Namespace) -> None:
    """Check, before anything is measured, that the results can be written."""
    if options.plots and find_spec("matplotlib") is None:
        raise InputError("--plot", "needs matplotlib", "pip install 'medfocus[fewshot]'")
    files = [file for file in (options.json, options.csv, options.trace) if file]
    for folder in filter(None, [options.plots, *(file.parent for file in files)]):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error


def _write(options: argparse.Namespace, rows: Sequence[BenchRow]) -> None:
    if options.json:
        write_json(options.json, rows)
    if options.csv:
        write_csv(options.csv, rows)
    if options.plots:
        from medfocus.benchmarks.bench.report.plots import draw  # matplotlib is optional

        draw(rows, options.plots)


def _show(rows: Sequence[BenchRow], console: Console) -> None:
    if any(row.measured for row in rows):
        output, table = Console(), bench_table(rows)
        # A terminal that is too narrow wraps the lines: that loses less than cut cells.
        limits = output.options.update(max_width=MAX_WIDTH)
        output.width = max(output.width, Measurement.get(output, limits, table).maximum)
        output.print(table)
    noisy = [row.name for row in rows if row.too_noisy and not row.baseline]
    lines = [f"{name}: too noisy: the baseline's two timings differ" for name in noisy]
    for line in missing_lines(rows) + lines:
        console.print(printable(line))
