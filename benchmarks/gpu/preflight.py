"""What would spoil a run of `gpu_check` without a sound: stale sources, stale results."""

from collections.abc import Iterator
from pathlib import Path

import medfocus

# As setup.py maps them; `package` holds the files of `medfocus` itself.
FOLDERS = ("kernels", "models", "fewshot", "export", "engine", "benchmarks")
# What a run leaves in its folder.
RESULTS = (
    "gpu_check.*",
    "goals.txt",
    "pipeline.json*",
    "part-*.jsonl",
    "junit-*.xml",
    "tests-*.log",
    "tests-*.jsonl",
    "sanitizer-*.log",
    "warm-up-*.log",
)


def remove_results(out: Path) -> None:
    """Remove what an earlier run left, lest a part that fails now seems to have been measured."""
    for pattern in RESULTS:
        for file in out.glob(pattern):
            file.unlink()


def source_problems(root: Path) -> Iterator[str]:
    """Whether the package that is imported is the one in the repository at `root`."""
    imported = Path(medfocus.__file__).parent
    differing = [
        str(file.relative_to(root))
        for source, target in _mapped(root, imported)
        for file in _installed_of(source)
        if not _same(file, target / file.relative_to(source))
    ]
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        yield f"the installed medfocus is not this repository's: {differing[0]} differs{more}"


def _mapped(root: Path, imported: Path) -> Iterator[tuple[Path, Path]]:
    yield root / "package", imported
    for folder in FOLDERS:
        yield root / folder, imported / folder


def _installed_of(folder: Path) -> list[Path]:
    """A folder's modules, and the kernels' tiles: a stale tile is a stale time."""
    modules = (file for file in folder.rglob("*.py") if (file.parent / "__init__.py").exists())
    return sorted([*modules, *folder.glob("tiles/*.json")])


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.read_bytes() == other.read_bytes()
