"""`medfocus-bench`: what an engine does on this machine, beside its peers, speed beside accuracy.

medfocus-bench                                  everything, on the shipped `tiny`, in three minutes
medfocus-bench models --engine engines/mine --json new.json --compare old.json
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from medfocus.benchmarks.baselines.implementations import BASELINES
from medfocus.benchmarks.bench.arguments import names, positive, positive_number, sizes
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
from medfocus.engine.artifact.directory import EngineDirectory, read_engine_directory
from medfocus.engine.artifact.layout import HEAD_WEIGHTS
from medfocus.engine.backends.registry import NAMES
from medfocus.engine.io.results import printable
from medfocus.errors import InputError, MedfocusError

OK, WORSE, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
WIDEST = 200  # columns of a table
# In this order; `scaling` alone takes longer than all others together.
PARTS: dict[str, Callable[[BenchOptions], Iterator[BenchRow]]] = {
    "models": models_part,
    "pipeline": pipeline_part,
    "startup": startup_part,
    "kernels": kernels_part,
    "scaling": scaling_part,
}
ALL = ("export", "models", "pipeline", "startup", "kernels")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0; 1 where `--compare` found something worse; 2 for wrong usage or what cannot be loaded;
        130 for Ctrl-C, with what was measured until then written and shown.
    """
    options = _parser().parse_args(argv)
    warnings.filterwarnings("ignore", r"`torch\.jit", FutureWarning)  # sam2's
    report = Console(stderr=True, highlight=False, soft_wrap=True)
    rows: list[BenchRow] = []
    interrupted = False
    try:
        old = None if options.compare is None else read_json(options.compare)
        _prepare(options)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=report) as progress:
            task = progress.add_task("starting", total=None)
            try:
                _measure(options, rows, lambda what: progress.update(task, description=what))
            except KeyboardInterrupt:
                interrupted = True
        _show(rows, report)
        _write(options, rows)
        if interrupted:
            report.print(f"Interrupted; rows measured until then: {len(rows)}")
            return INTERRUPTED
        if not any(row.measured for row in rows):
            return UNUSABLE
        worse = [] if old is None else regressions(old, rows)
    except MedfocusError as error:
        report.print(printable(str(error)), markup=False)
        return UNUSABLE
    for regression in worse:
        report.print(f"{regression.row.name}: {regression.problem}", markup=False)
    return WORSE if worse else OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medfocus-bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("what", metavar="WHAT", nargs="?", choices=("all", "export", *PARTS), default="all",
        help=f"all ({', '.join(ALL)}), one of these, or scaling")  # fmt: skip
    what = parser.add_argument_group("what is measured")
    add = what.add_argument
    add("--engine", metavar="DIR", type=Path, action="append", default=[],
        help="with the target torch; again: of the same models; default: the preset's")  # fmt: skip
    add("--preset", metavar="P", default="tiny",
        help="what is exported, with random weights where none are shipped")  # fmt: skip
    add("--backends", metavar="LIST", type=partial(names, of=NAMES), help="default: the engines'")
    add("--peers", metavar="LIST", type=partial(names, of=tuple(BASELINES)),
        default=("upstream", "autocast"),
        help=f"of {', '.join(BASELINES)}, ratios to the first; default: upstream,autocast")  # fmt: skip
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--batch", metavar="LIST", type=sizes, default=(8,), help="images at once; default 8")
    add("--images", metavar="N", type=positive, default=48, help="a stream; default 48")
    add("--seconds", metavar="S", type=positive_number, default=6.0, help="a job; default 6")
    output = parser.add_argument_group("what becomes of it")
    add = output.add_argument
    add("--json", metavar="FILE", type=Path, help="write the rows as a list")
    add("--csv", metavar="FILE", type=Path, help="write them as a table")
    add("--plot", metavar="DIR", type=Path, help="draw them")
    add("--trace", metavar="FILE", type=Path, help="write the pipeline's Chrome trace")
    add("--compare", metavar="OLD.json", type=Path, help="exit 1 and name what became worse")
    return parser


def _measure(
    options: argparse.Namespace, rows: list[BenchRow], say: Callable[[str], object]
) -> None:
    """Append the rows as they are measured."""
    environment = environment_of(Path.cwd(), options.device)
    wanted = ALL if options.what == "all" else (options.what,)
    with ExitStack() as stack:
        engines = tuple(read_engine_directory(path) for path in options.engine)
        if not engines or "export" in wanted:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            try:
                exported, row = export_part(options.preset, folder, environment, say)
            except MedfocusError as error:
                if not engines:
                    raise
                row = BenchRow("export", options.preset, "", "", 0, "", environment, str(error))
            else:
                engines = engines or (exported,)
            rows.extend([row] if "export" in wanted else [])
        request = _request(options, engines, environment, say)
        for name in wanted:
            if name == "export":
                continue
            try:
                rows.extend(PARTS[name](request))  # which keeps what came before an interrupt
            except Exception as error:  # of one part, whatever ran in it: the others go on
                rows.append(BenchRow(name, name, "", "", 0, "", environment, first_line(error)))


def _request(
    options: argparse.Namespace,
    engines: tuple[EngineDirectory, ...],
    environment: Environment,
    say: Callable[[str], object],
) -> BenchOptions:
    for engine in engines[1:]:
        if _answers(engine) != _answers(engines[0]):
            raise InputError(
                "--engine",
                f"{engine.path.name} and {engines[0].path.name} differ in models, head, focus,"
                " prompts or classes",
                "measure them one by one",
            )
    for backend in options.backends or ():
        if not any(backend in engine.manifest.backends for engine in engines):
            raise InputError(
                f"--backends {backend}", "no engine was exported for it", "leave it out"
            )
    return BenchOptions(
        engines=engines,
        backends=options.backends,
        peers=options.peers,
        device=options.device,
        batches=options.batch,
        images=options.images,
        seconds=options.seconds,
        environment=environment,
        say=say,
        trace=options.trace,
        plots=options.plot,
    )


def _answers(engine: EngineDirectory) -> tuple[object, ...]:
    """What decides an engine's answers but for their precision."""
    manifest = engine.manifest
    head = manifest.files.get(HEAD_WEIGHTS)
    parts = (manifest.models, manifest.focus, manifest.selection, manifest.prompts)
    return *parts, manifest.preprocessing, manifest.classes, head


def _prepare(options: argparse.Namespace) -> None:
    """See, before anything is measured, that it can be written."""
    if options.plot and find_spec("matplotlib") is None:
        raise InputError("--plot", "needs matplotlib", "pip install 'medfocus[fewshot]'")
    files = [file for file in (options.json, options.csv, options.trace) if file]
    with _writing():
        for folder in [options.plot, *(file.parent for file in files)]:
            if folder:
                folder.mkdir(parents=True, exist_ok=True)


def _write(options: argparse.Namespace, rows: Sequence[BenchRow]) -> None:
    with _writing():
        if options.json:
            write_json(options.json, rows)
        if options.csv:
            write_csv(options.csv, rows)
        if options.plot:
            from medfocus.benchmarks.bench.report.plots import (
                draw,  # matplotlib is for pictures alone
            )

            draw(rows, options.plot)


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "name another place, or make room"
        raise InputError(
            str(error.filename), f"cannot be written ({error.strerror})", hint
        ) from error


def _show(rows: Sequence[BenchRow], report: Console) -> None:
    if any(row.measured for row in rows):
        console, table = Console(), bench_table(rows)
        # What does not fit is better broken by the terminal than cut.
        room = console.options.update(max_width=WIDEST)
        console.width = max(console.width, Measurement.get(console, room, table).maximum)
        console.print(table)
    for line in missing_lines(rows):
        report.print(printable(line), markup=False)
    for row in rows:
        if row.too_noisy and not row.peer:
            report.print(f"{row.name}: too noisy, the peer was not as fast as itself", markup=False)


if __name__ == "__main__":
    sys.exit(main())
