"""The part `pipeline`: `Engine.stream` compared with its models, and PyTorch image by image."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from medfocus.benchmarks.baselines.implementations import BASELINES, baseline_implementations
from medfocus.benchmarks.baselines.models import OURS, Models
from medfocus.benchmarks.bench.agreement import worst_cosine
from medfocus.benchmarks.bench.failures import first_line
from medfocus.benchmarks.bench.options import BenchOptions
from medfocus.benchmarks.bench.report.rows import BenchRow
from medfocus.benchmarks.bench.report.trace import draw_trace, write_trace
from medfocus.benchmarks.bench.timing.interleaved import time_interleaved
from medfocus.engine import Engine
from medfocus.engine.artifact.directory import EngineDirectory
from medfocus.engine.backends.base import Backend
from medfocus.engine.backends.registry import load_backend
from medfocus.engine.io.reading.reader import read_images
from medfocus.engine.preprocess.batch import Batch, collate, no_focus, prepare
from medfocus.engine.runtime.graphs import Array
from medfocus.engine.runtime.metrics import STAGES, Span
from medfocus.export.validate.images import phantoms

PART = "pipeline"
DISTINCT = 64  # images; more are the same ones again
SINGLE = 16  # how many are given one by one: the time per image does not depend on it

STREAM = "Engine.stream"
GRAPHS = "graphs alone"  # on prepared batches: the limit if all else took no time
ONE_BY_ONE = f"{OURS}'s graphs in PyTorch, one by one"
UPSTREAM = "upstream"
UPSTREAM_ONE_BY_ONE = f"{BASELINES[UPSTREAM]}, one by one"
WHOLE = "files to answers"
STAGE = "a stage of the stream"


def pipeline_part(options: BenchOptions) -> Iterator[BenchRow]:
    """Rows of each engine on its fastest backend, or on the chosen ones, then of its stages."""
    for directory in options.engines:
        for name in options.backends or ("auto",):
            if name != "auto" and name not in directory.manifest.backends:
                continue
            options.report(f"{STREAM}, {name}")
            try:
                yield from _rows(options, directory, name)
            except Exception as error:  # each runtime has its own classes, without a common base
                yield replace(_row(options, directory, name, STREAM), status=first_line(error))


def _rows(options: BenchOptions, directory: EngineDirectory, backend: str) -> Iterator[BenchRow]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = stack.enter_context(closing(Engine.load(directory.path, backend, options.device)))
        models = stack.enter_context(
            closing(load_backend(directory, engine.backend, engine.device))
        )
        first = options.engines[0]
        exact = stack.enter_context(closing(reference_backend(first, engine.device)))
        files = save_phantoms(folder, options.images)
        batches = _batches(directory, files, engine.stats().max_batch)
        single = files[:SINGLE]
        spans: list[Span] = []
        labels: dict[str, list[int]] = {}
        embeddings: dict[Path, Array] = {}
        options.report("PyTorch's labels")
        distinct = files[:DISTINCT]
        known = dict(zip(distinct, _one_by_one(exact, first, distinct), strict=True))

        def graphs() -> None:
            labels[GRAPHS] = run_graphs(models, directory.manifest, batches)

        def stream() -> None:
            with engine.tracing() as traced:
                labels[STREAM] = _stream(engine, files)
            spans[:] = traced

        def one_by_one() -> None:
            labels[ONE_BY_ONE] = _one_by_one(exact, first, single)

        runs: dict[str, Callable[[], None]]
        runs = {GRAPHS: graphs, STREAM: stream, ONE_BY_ONE: one_by_one}
        if UPSTREAM in options.baselines:
            try:
                upstream = _upstream(options, files[0])
            except Exception as error:  # of its runtime
                row = _row(options, directory, engine.backend, UPSTREAM_ONE_BY_ONE)
                yield replace(row, status=first_line(error))
            else:
                stack.callback(upstream.close)
                runs[UPSTREAM_ONE_BY_ONE] = lambda: embeddings.update(_embed(upstream, single))
        images = {name: len(files if name in (GRAPHS, STREAM) else single) for name in runs}
        options.report(f"{STREAM}, {engine.backend}")
        for name, found in time_interleaved(runs, GRAPHS, options.seconds, images).items():
            if name in labels:
                asked = zip(files[: images[name]], labels[name], strict=True)
                accuracy = float(np.mean([known[file] == label for file, label in asked]))
            else:
                accuracy = _worst_plain_cosine(first, embeddings)
            yield replace(
                _row(options, directory, engine.backend, name),
                batch=images[name],
                **found.figures(images[name], "" if name == GRAPHS else GRAPHS),
                accuracy=accuracy,
                accuracy_of="label" if name in labels else "cosine",
            )
        yield from _stages(_row(options, directory, engine.backend, STREAM), spans)
        if options.trace:
            write_trace(spans, options.trace)
        if options.plots:
            where = options.environment.device or options.environment.processor
            title = f"{STREAM}, {directory.manifest.models.clip.architecture}, {where}"
            draw_trace(spans, options.plots / "schedule.png", title)


def _row(options: BenchOptions, directory: EngineDirectory, backend: str, name: str) -> BenchRow:
    """A row of all images."""
    precision = directory.manifest.backends.get(backend, directory.manifest.precision.dtype)
    if name in (ONE_BY_ONE, UPSTREAM_ONE_BY_ONE):
        precision = "fp32"
    else:
        name = f"{OURS}, {backend}, {name}"
    return BenchRow(PART, WHOLE, name, precision, options.images, "", options.environment)


def _stages(stream: BenchRow, spans: Sequence[Span]) -> Iterator[BenchRow]:
    """A row per stage of the last stream: images per second of work, and times of its runs."""
    for stage in STAGES:
        found = [span for span in spans if span.stage == stage]
        if not found:
            continue
        seconds = [span.ended - span.begun for span in found]
        yield replace(
            stream,
            what=STAGE,
            setting=stage,
            batch=max(span.images for span in found),
            rounds=len(found),
            images_per_second=sum(span.images for span in found) / sum(seconds),
            p50_ms=1e3 * float(np.median(seconds)),
            p95_ms=1e3 * float(np.quantile(seconds, 0.95)),
        )


def save_phantoms(folder: Path, count: int) -> list[Path]:
    """Paths of `count` PNG files, of which `DISTINCT` are different."""
    files = []
    for number, phantom in enumerate(phantoms(min(count, DISTINCT))):
        file = folder / f"{number}.png"
        Image.fromarray(phantom.pixels).save(file)
        files.append(file)
    return [files[number % len(files)] for number in range(count)]


def _batches(directory: EngineDirectory, files: Sequence[Path], size: int) -> list[Batch]:
    """All images, preprocessed; equal batches share their memory."""
    manifest = directory.manifest
    settings = (manifest.preprocessing, manifest.focus, manifest.prompts)
    once = {file: prepare(read_images(file)[0], *settings) for file in set(files)}
    chunks = [tuple(files[start : start + size]) for start in range(0, len(files), size)]
    batches = {
        chunk: collate([once[file] for file in chunk], manifest.preprocessing)
        for chunk in dict.fromkeys(chunks)
    }
    return [batches[chunk] for chunk in chunks]


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


def _upstream(options: BenchOptions, file: Path) -> Models:
    """Upstream's models, after a first answer."""
    (upstream,) = baseline_implementations(options.engines[0], [UPSTREAM], options.device)
    models = upstream.load()
    _embed(models, [file])  # lazy initialisation fails here
    return models


def _embed(models: Models, files: Sequence[Path]) -> dict[Path, Array]:
    return {file: models.embed(read_images(file)) for file in files}


def _worst_plain_cosine(directory: EngineDirectory, found: Mapping[Path, Array]) -> float:
    """Of embeddings by file to those of the float32 model without steering."""
    nothing, _ = no_focus(1, directory.manifest.preprocessing)
    with closing(reference_models(directory)) as reference:
        plain = [reference.classify(read_images(file), nothing) for file in found]
    return worst_cosine(np.concatenate(list(found.values())), np.concatenate(plain))
