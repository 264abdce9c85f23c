"""What would spoil a run of `make gpu-check` unnoticed: an outdated package, outdated results."""

import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import medfocus

# As setup.py maps them; `package` holds the files of `medfocus` itself.
FOLDERS = ("kernels", "models", "phantoms", "engine", "export", "fewshot", "benchmarks")
# What a run leaves in its folder.
RESULTS, LOGS = ("gpu_check.*", "goals.txt", "pipeline.json*"), "logs"


def remove_results(out: Path) -> None:
    """Remove what an earlier run left, so that a part that fails now has no results."""
    for pattern in RESULTS:
        for file in out.glob(pattern):
            file.unlink()
    shutil.rmtree(out / LOGS, ignore_errors=True)


def source_problems(root: Path) -> Iterator[str]:
    """Whether the imported package is that of the repository at `root`."""
    packages = {"package": medfocus} | {
        folder: import_module(f"medfocus.{folder}") for folder in FOLDERS
    }
    folders = {root / name: Path(package.__path__[0]) for name, package in packages.items()}
    differing = [
        str(file.relative_to(root))
        for source, target in folders.items()
        for file in _installed(source)
        if not (copy := target / file.relative_to(source)).exists()
        or copy.read_bytes() != file.read_bytes()
    ]
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        yield f"the installed medfocus is not this repository's: {differing[0]} differs{more}"


def _installed(folder: Path) -> list[Path]:
    """A folder's modules, and the kernels' tile tables, which decide their speed."""
    modules = (file for file in folder.rglob("*.py") if (file.parent / "__init__.py").exists())
    return sorted([*modules, *folder.glob("tiles/*.json")])
