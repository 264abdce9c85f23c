"""`medfocus export --verify`: an engine's check images, through every backend that runs here."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from medfocus.engine.artifact.directory import EngineDirectory, read_engine_directory
from medfocus.engine.artifact.files import directory_error
from medfocus.engine.artifact.parity import AT_LEAST
from medfocus.engine.backends.base import Backend
from medfocus.engine.backends.registry import load_backend
from medfocus.engine.checking.check_images import CheckImage, read_check_images
from medfocus.engine.checking.self_check import limits, measure, too_far_here
from medfocus.errors import InputError, MedfocusError, ParityError
from medfocus.export.summary import FIGURES
from medfocus.terminal import printable


def verify(path: Path, output: Console) -> None:
    """Check an engine directory's bytes, and its answers on this machine; print a table of them.

    Args:
        path: the engine directory.
        output: where the table is shown.

    Raises:
        EngineDirectoryError: the directory is not as it was written, or has no check images
            (`engine.no_check_images`).
        InputError: none of its backends runs here (`backend.none_usable`).
        ParityError: a backend that runs here misses a limit (`parity.missed_here`).
    """
    directory = read_engine_directory(path)
    checks = read_check_images(directory)
    if not checks:
        problem = "has no check images"
        raise directory_error(directory.path, problem, code="engine.no_check_images")
    worst: dict[str, Mapping[str, float]] = {}
    states: dict[str, str] = {}
    refusals: list[ParityError] = []
    for name in directory.manifest.backends:
        try:
            backend, worst[name] = _worst(directory, name, checks)
            states[name] = f"passes on {backend.device}"
            if missed := limits(directory.manifest, name).missed(worst[name]):
                raise too_far_here(backend, directory.manifest, missed)
        except ParityError as error:
            states[name] = "misses a limit" if name in worst else error.problem
            refusals.append(error)
        except MedfocusError as error:
            states[name] = f"does not run here: {error.problem}"
    output.print(_table(directory, worst, states))
    output.print(f"{len(checks)} check images, the worst value of each figure (its limit)")
    if refusals:
        raise refusals[0]
    if not worst:
        raise InputError(
            "backend auto",
            "none of this engine's backends runs here",
            "install one of them, or export the engine again for one that is installed",
            code="backend.none_usable",
        )


def _worst(
    directory: EngineDirectory, name: str, checks: list[CheckImage]
) -> tuple[Backend, dict[str, float]]:
    """A backend, closed again, and the worst value of each figure over the check images."""
    backend = load_backend(directory, name, "auto")
    with closing(backend), closing(backend.buffer_pool(directory.manifest, 1)) as pool:
        found = [measure(backend, pool, directory.manifest, check) for check in checks]
    worst = {  # NumPy's, of which NaN is both the least and the largest
        figure: float((np.min if figure in AT_LEAST else np.max)([each[figure] for each in found]))
        for figure in found[0]
    }
    return backend, worst


def _table(
    directory: EngineDirectory,
    worst: Mapping[str, Mapping[str, float]],
    states: Mapping[str, str],
) -> Table:
    """One column per backend, one row per figure."""
    manifest = directory.manifest
    table = Table("backend", *(Column(Text(name)) for name in states))
    table.add_row("precision", *(manifest.backends[name] for name in states))
    for label, figure, form in FIGURES:
        if not any(figure in figures for figures in worst.values()):
            continue
        limit = {name: getattr(limits(manifest, name), figure) for name in worst}
        table.add_row(
            label,
            *(
                f"{worst[name][figure]:{form}} ({limit[name]:g})" if name in worst else ""
                for name in states
            ),
        )
    table.add_row("on this machine", *(Text(printable(state)) for state in states.values()))
    return table
