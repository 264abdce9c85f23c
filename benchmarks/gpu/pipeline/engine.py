"""An engine of random weights on a GPU, and one batch's buffers to run its graphs directly."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from medfocus.benchmarks.baselines.models import OURS
from medfocus.benchmarks.bench.random_weights import CLASSES, give_regions
from medfocus.benchmarks.gpu.pipeline.variants import variant_pool
from medfocus.engine import Engine
from medfocus.engine.artifact.directory import EngineDirectory, read_engine_directory
from medfocus.engine.backends.torch.backend import TorchBackend
from medfocus.engine.backends.torch.batch_buffers import TorchBatchBuffers, captures_of
from medfocus.engine.engine import MOST_THREADS
from medfocus.engine.runtime.batch_buffers import BatchBuffers
from medfocus.engine.runtime.image_request import ImageRequest
from medfocus.engine.runtime.pipeline import Pipeline
from medfocus.export.engine_directory import ModelBundle, build
from medfocus.export.validate.images import phantoms
from medfocus.models.clip.architecture import build_vision_tower
from medfocus.models.clip.encoder import FocusCLIP
from medfocus.models.head import Head, uniform_strength
from medfocus.models.presets import preset
from medfocus.models.sam2.segmenter import Segmenter
from medfocus.settings import Focus, Prompts, Selection

ONE_POINT = Prompts((((0.5, 0.5),),), ((1,),))
SIDE = 512  # of an image
NO_HASH = "0" * 64  # random weights come from no file

Picture = NDArray[np.uint8]


class MeasuredEngine(NamedTuple):
    """What is measured; one backend, and so one copy of the weights, serves both.

    Attributes:
        directory, engine: the engine.
        buffers: a batch's buffers, prepared, segmented and classified once.
        graphs: (stage, images) of each CUDA graph that all buffers have.
    """

    directory: EngineDirectory
    engine: Engine
    buffers: TorchBatchBuffers
    graphs: list[tuple[str, int]]


def pictures_of(count: int) -> list[Picture]:
    """Phantoms, uint8 (SIDE, SIDE, 3)."""
    drawn = [Image.fromarray(phantom.pixels) for phantom in phantoms(count)]
    return [np.array(picture.resize((SIDE, SIDE))) for picture in drawn]


def random_directory(name: str, path: Path, device: str, batch: int) -> EngineDirectory:
    """An engine directory of a preset for one prompt; bf16 on a GPU, else float32."""
    chosen = preset(name)
    torch.manual_seed(0)
    clip = FocusCLIP(build_vision_tower(chosen.clip)).eval()
    segmenter = Segmenter(chosen.sam2).eval()
    give_regions(segmenter.sam_mask_decoder)
    embeddings = torch.randn(len(CLASSES), clip.embedding_size)
    scale, strength = torch.tensor(30.0), uniform_strength(clip.layers)
    head = Head(chosen.clip, NO_HASH, "soft", CLASSES, embeddings, scale, strength)
    bundle = ModelBundle(chosen, clip, NO_HASH, segmenter, NO_HASH, head, Focus(), Selection())
    build(path, bundle)
    directory = read_engine_directory(path)
    manifest = replace(
        directory.manifest,
        prompts=ONE_POINT,
        buckets=tuple(sorted({1, batch})),
        backends={"torch": "bf16" if device == "cuda" else "fp32"},
    )
    return replace(directory, manifest=manifest)


@contextmanager
def measured_engine(
    directory: EngineDirectory, device: str, pictures: Sequence[Picture], variant: str = OURS
) -> Iterator[MeasuredEngine]:
    """An engine for batches of all `pictures`, and one batch of buffers that holds them."""
    manifest, batch = directory.manifest, len(pictures)
    runtime = TorchBackend(directory, device)
    if variant == OURS:
        pool = runtime.buffer_pool(manifest, batch)
    else:
        pool = variant_pool(variant, runtime, manifest, batch)
    threads = min(len(os.sched_getaffinity(0)), MOST_THREADS)  # as `Engine.load`
    pipeline = Pipeline(*pool, max_batch=batch, threads=threads, release=runtime.close)
    with closing(Engine(manifest, runtime, pipeline)) as engine:
        buffers = TorchBatchBuffers(runtime, manifest, batch, device)
        if device == "cuda":
            buffers.capture(manifest.buckets, captures_of(manifest))
        blank = phantoms(1)[0]
        images = [replace(blank, pixels=pixels) for pixels in pictures]
        buffers.begin([ImageRequest(image, manifest.prompts) for image in images])
        for row in range(batch):
            buffers.prepare(row)
        buffers.segment()
        buffers.classify()
        graphs = common_graphs([buffers, *pool.buffers])
        yield MeasuredEngine(directory, engine, buffers, graphs)


def common_graphs(pool: Sequence[BatchBuffers]) -> list[tuple[str, int]]:
    """(stage, images) of each CUDA graph that all buffers have; where one lacks it, it runs eager.

    There is no public way to ask for them, only a log message.
    """
    captured: list[set[tuple[str, int]]]
    captured = [{*buffers._captured} for buffers in pool if isinstance(buffers, TorchBatchBuffers)]
    return sorted(set.intersection(*captured))
