"""The part `pipeline`: `Engine.stream` beside the graphs alone, and PyTorch image by image."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from medfocus.benchmarks.baselines.engine_models import (
    reference_backend,
    reference_models,
    run_graphs,
)
from medfocus.benchmarks.baselines.implementations import (
    BASELINES,
    OURS,
    Models,
    baseline_implementations,
)
from medfocus.benchmarks.bench.agreement import worst_cosine
from medfocus.benchmarks.bench.failures import first_line
from medfocus.benchmarks.bench.options import BenchOptions
from medfocus.benchmarks.bench.report.rows import BenchRow
from medfocus.benchmarks.bench.report.trace import draw_trace, write_trace
from medfocus.benchmarks.bench.timing.clock import quantile
from medfocus.benchmarks.bench.timing.interleaved import race
from medfocus.engine import Engine
from medfocus.engine.artifact.directory import EngineDirectory
from medfocus.engine.backends.base import Backend
from medfocus.engine.backends.registry import load_backend
from medfocus.engine.io.images import read_images
from medfocus.engine.preprocess.batch import Batch, collate, no_focus, prepare
from medfocus.engine.runtime.graphs import Array
from medfocus.engine.runtime.metrics import STAGES, Span
from medfocus.export.validate.images import phantoms

PART = "pipeline"
DISTINCT = 64  # images; more are these again
SINGLE = 16  # of them are given one by one: that takes the same time an image however many they are

STREAM = "Engine.stream"
GRAPHS = "graphs alone"  # on prepared batches: what a pipeline could reach if all else were free
ONE_BY_ONE = f"{OURS}'s graphs in PyTorch, one by one"
UPSTREAM = "upstream"
UPSTREAM_ONE_BY_ONE = f"{BASELINES[UPSTREAM]}, one by one"
WHOLE = "files to answers"
STAGE = "a stage of the stream"


def pipeline_part(request: BenchOptions) -> Iterator[BenchRow]:
    """Rows of each engine on its fastest backend, or on those named: contenders, then stages."""
    for directory in request.engines:
        for name in request.backends or ("auto",):
            if name != "auto" and name not in directory.manifest.backends:
                continue
            request.say(f"{STREAM}, {name}")
            try:
                yield from _rows(request, directory, name)
            except Exception as error:  # each runtime has its own kinds, with no base in common
                row = _row(request, directory, name, STREAM)
                yield replace(row, status=first_line(error))


def _rows(request: BenchOptions, directory: EngineDirectory, backend: str) -> Iterator[BenchRow]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        engine = stack.enter_context(closing(Engine.load(directory.path, backend, request.device)))
        alone = load_backend(directory, engine.backend, engine.device)
        stack.callback(alone.close)
        exact = reference_backend(request.engines[0], engine.device)
        stack.callback(exact.close)
        manifest, size = directory.manifest, engine.stats().max_batch
        files = save_phantoms(Path(folder), request.images)
        batches = _batches(directory, files, size)
        distinct, single = files[:DISTINCT], files[:SINGLE]
        spans: list[Span] = []
        labels: dict[str, list[int]] = {}
        request.say("PyTorch's labels")
        answers = _one_by_one(exact, request.engines[0], distinct)
        known = dict(zip(distinct, answers, strict=True))

        def graphs() -> None:
            labels[GRAPHS] = run_graphs(alone, manifest, batches)

        def stream() -> None:
            with engine.tracing() as traced:
                labels[STREAM] = _stream(engine, files)
            spans[:] = traced

        def one_by_one() -> None:
            labels[ONE_BY_ONE] = _one_by_one(exact, request.engines[0], single)

        runs = {GRAPHS: graphs, STREAM: stream, ONE_BY_ONE: one_by_one}
        embeddings: dict[Path, Array] = {}
        if UPSTREAM in request.peers:
            try:
                peer = _upstream(request, files[0])
            except Exception as error:  # its runtime's own kind
                row = _row(request, directory, engine.backend, UPSTREAM_ONE_BY_ONE)
                yield replace(row, status=first_line(error))
            else:
                stack.callback(peer.close)
                runs[UPSTREAM_ONE_BY_ONE] = lambda: embeddings.update(
                    _peer_one_by_one(peer, single)
                )
        images = {name: len(files if name in (GRAPHS, STREAM) else single) for name in runs}
        request.say(f"{STREAM}, {engine.backend}")
        for name, found in race(runs, GRAPHS, request.seconds, images).items():
            if name in labels:
                asked = files[: images[name]]
                same = [
                    known[file] == label for file, label in zip(asked, labels[name], strict=True)
                ]
                accuracy, kind = float(np.mean(same)), "label"
            else:
                accuracy, kind = _worst_plain_cosine(request.engines[0], embeddings), "cosine"
            yield replace(
                _row(request, directory, engine.backend, name),
                batch=images[name],
                **found.figures(images[name], "" if name == GRAPHS else GRAPHS),
                accuracy=accuracy,
                accuracy_of=kind,
            )
        yield from _stages(request, directory, engine.backend, spans)
        _show(request, directory, spans)


def _row(
    request: BenchOptions, directory: EngineDirectory, backend: str, contender: str
) -> BenchRow:
    """A row of a contender at all images."""
    precision = directory.manifest.backends.get(backend, directory.manifest.precision.dtype)
    name = contender
    if contender in (ONE_BY_ONE, UPSTREAM_ONE_BY_ONE):
        precision = "fp32"
    else:
        name = f"{OURS}, {backend}, {contender}"
    return BenchRow(PART, WHOLE, name, precision, request.images, "", request.environment)


def _stages(
    request: BenchOptions, directory: EngineDirectory, backend: str, spans: Sequence[Span]
) -> Iterator[BenchRow]:
    """A row a stage of the last stream: images a second while it worked, and times of its runs."""
    for stage in STAGES:
        found = [span for span in spans if span.stage == stage]
        if not found:
            continue
        seconds = [span.ended - span.begun for span in found]
        images = sum(span.images for span in found)
        yield replace(
            _row(request, directory, backend, STREAM),
            what=STAGE,
            setting=stage,
            batch=max(span.images for span in found),
            rounds=len(found),
            images_per_second=images / sum(seconds),
            p50_ms=1e3 * quantile(seconds, 0.5),
            p95_ms=1e3 * quantile(seconds, 0.95),
        )


def _show(request: BenchOptions, directory: EngineDirectory, spans: Sequence[Span]) -> None:
    """The trace and the picture of the last stream."""
    if request.trace:
        write_trace(spans, request.trace)
    if request.plots:
        where = request.environment.device or request.environment.processor
        title = f"{STREAM}, {directory.manifest.models.clip.architecture}, {where}"
        draw_trace(spans, request.plots / "schedule.png", title)


def save_phantoms(folder: Path, count: int) -> list[Path]:
    """So many PNG files, of `DISTINCT` different ones."""
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


def _stream(engine: Engine, files: Sequence[Path]) -> list[int]:
    classes = list(engine.manifest.classes)
    labels = []
    for prediction in engine.stream(files):
        if prediction.error is not None:
            raise prediction.error
        assert prediction.label is not None
        labels.append(classes.index(prediction.label))
    return labels


def _one_by_one(backend: Backend, directory: EngineDirectory, files: Sequence[Path]) -> list[int]:
    labels: list[int] = []
    for file in files:
        labels += run_graphs(backend, directory.manifest, _batches(directory, [file], 1))
    return labels


def _upstream(request: BenchOptions, file: Path) -> Models:
    """Upstream's models, once they have answered."""
    (contender,) = baseline_implementations(request.engines[0], [UPSTREAM], request.device)
    models = contender.load()
    _peer_one_by_one(models, [file])  # what is lazy fails here
    return models


def _peer_one_by_one(models: Models, files: Sequence[Path]) -> dict[Path, Array]:
    embeddings = {}
    for file in files:
        images = read_images(file)
        embeddings[file] = models.classify(images, models.segment(images))
    return embeddings


def _worst_plain_cosine(directory: EngineDirectory, found: Mapping[Path, Array]) -> float:
    """Of embeddings by file to those of the float32 model that is not steered."""
    nothing, _ = no_focus(1, directory.manifest.preprocessing)
    reference = reference_models(directory)
    try:
        plain = [reference.classify(read_images(file), nothing) for file in found]
    finally:
        reference.close()
    return worst_cosine(np.concatenate(list(found.values())), np.concatenate(plain))
