"""`Engine.stream` beside the two graphs alone and beside PyTorch, image by image, in one run."""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medfocus.engine import Engine
from medfocus.engine.artifact import EngineDirectory, read_engine_directory
from medfocus.engine.backends import Backend, load_backend
from medfocus.engine.images import read_images
from medfocus.engine.manifest import Manifest
from medfocus.engine.prepare import Batch, collate, no_focus, prepare
from medfocus.engine.stats import Span, Stats
from medfocus.errors import MedfocusError
from medfocus.export.check_images import phantoms

DISTINCT = 64  # images; more are these again

GRAPHS = "the two graphs alone, on prepared batches"
STREAM = "Engine.stream, from files"
ONE_BY_ONE = "the two PyTorch models, float32, one image at a time, from files"


@dataclass(frozen=True)
class Row:
    """What one contender did.

    Attributes:
        contender: what ran.
        images_per_second: median over the rounds; None where it could not run.
        ratio: of its images a second to those of the two graphs alone, round by round: the
            quartiles.
        same_label: share of images with the label that the two graphs alone give.
        status: "measured", or why not.
    """

    contender: str
    images_per_second: float | None
    ratio: tuple[float, ...]
    same_label: float | None
    status: str = "measured"


@dataclass(frozen=True, eq=False)
class Measured:
    """A run: a row a contender, the engine's own account, and the spans of the last stream."""

    rows: list[Row]
    stats: Stats
    spans: list[Span]

    def to_json(self) -> dict[str, Any]:
        """Without the spans."""
        return {"rows": [asdict(row) for row in self.rows], "stats": asdict(self.stats)}


def measure(
    path: Path,
    backend: str,
    device: str,
    images: int,
    rounds: int,
    advance: Callable[[str], object],
    reference: Path | None = None,
) -> Measured:
    """Time `images` images in each of `rounds` rounds, contender by contender.

    Args:
        path: an engine directory; backend, device: as `Engine.load` takes them.
        images, rounds: how many.
        advance: called before each contender's turn with its name.
        reference: an engine of the same models, exported for PyTorch in float32; `path` itself
            where None.
    """
    directory = read_engine_directory(path)
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Engine.load(path, backend, device)) as engine,
    ):
        files = _files(Path(folder), images)
        alone = load_backend(directory, engine.backend, engine.device)
        size = engine.stats().max_batch
        batches = _batches(directory, files, size)
        contenders: dict[str, Callable[[int], list[int]]] = {
            GRAPHS: lambda count: _graphs(alone, directory.manifest, batches[: -(-count // size)]),
            STREAM: lambda count: _stream(engine, files[:count]),
        }
        missing: list[Row] = []
        try:
            peer, peer_directory = _peer(reference or path)
            contenders[ONE_BY_ONE] = lambda count: _one_by_one(peer, peer_directory, files[:count])
        except MedfocusError as error:
            missing.append(Row(ONE_BY_ONE, None, (), None, str(error)))
        for run in contenders.values():
            run(min(size, images))  # to warm up
        labels: dict[str, list[int]] = {}
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        spans: list[Span] = []
        for number in range(rounds):
            names = list(contenders)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                advance(name)
                with engine.tracing() as spans_now:
                    begun = time.perf_counter()
                    labels[name] = contenders[name](images)
                    seconds[name].append(time.perf_counter() - begun)
                spans = spans_now or spans
        rows = [_row(name, images, seconds, labels) for name in contenders]
        return Measured(rows + missing, engine.stats(), spans)


def _row(
    name: str, images: int, seconds: dict[str, list[float]], labels: dict[str, list[int]]
) -> Row:
    own = np.array(seconds[name])
    ratio = np.quantile(np.array(seconds[GRAPHS]) / own, (0.25, 0.5, 0.75))
    same = float(np.mean(np.array(labels[name]) == np.array(labels[GRAPHS])))
    rate = images / float(np.median(own))
    return Row(name, round(rate, 3), tuple(round(float(q), 3) for q in ratio), round(same, 4))


def _files(folder: Path, count: int) -> list[Path]:
    files = []
    for number, phantom in enumerate(phantoms(min(count, DISTINCT))):
        file = folder / f"{number}.png"
        Image.fromarray(phantom.pixels).save(file)
        files.append(file)
    return [files[number % len(files)] for number in range(count)]


def _batches(directory: EngineDirectory, files: Sequence[Path], size: int) -> list[Batch]:
    """All images, prepared beforehand; a file that comes again is prepared once."""
    manifest = directory.manifest
    once = {
        file: prepare(
            read_images(file)[0], manifest.preprocessing, manifest.focus, manifest.prompts
        )
        for file in set(files)
    }
    chunks = [files[start : start + size] for start in range(0, len(files), size)]
    batches: dict[tuple[Path, ...], Batch] = {}
    for chunk in chunks:
        key = tuple(chunk)
        if key not in batches:
            batches[key] = collate([once[file] for file in chunk], manifest.preprocessing)
    return [batches[tuple(chunk)] for chunk in chunks]


def _graphs(backend: Backend, manifest: Manifest, batches: Sequence[Batch]) -> list[int]:
    labels: list[int] = []
    for batch in batches:
        if manifest.focus.mode != "none":
            logits, _ = backend.segment(batch.segmenter, batch.points, batch.labels)
        else:
            logits, _ = no_focus(len(batch.labels), manifest.preprocessing)
        found = backend.classify(batch.classifier, logits, batch.rows, batch.cols)
        labels.extend(found[1].argmax(-1).tolist())
    return labels


def _stream(engine: Engine, files: Sequence[Path]) -> list[int]:
    classes = list(engine.manifest.classes)
    labels = []
    for prediction in engine.stream(files):
        if prediction.error is not None:
            raise prediction.error
        assert prediction.label is not None
        labels.append(classes.index(prediction.label))
    return labels


def _peer(path: Path) -> tuple[Backend, EngineDirectory]:
    directory = read_engine_directory(path)
    return load_backend(directory, "torch", "auto"), directory


def _one_by_one(backend: Backend, directory: EngineDirectory, files: Sequence[Path]) -> list[int]:
    labels: list[int] = []
    for file in files:
        labels += _graphs(backend, directory.manifest, _batches(directory, [file], 1))
    return labels
