"""Engines on a CPU beside SAM2's and open_clip's own code in PyTorch, in one interleaved run.

    python -m medfocus.benchmarks.cpu_speed ENGINE [ENGINE ...] --clip-weights FILE
        --sam2-weights FILE -o benchmarks/results/cpu/speed.json

Each round gives every contender the same images, so that a machine that slows down slows all.
From uint8 arrays to probabilities, all zero-shot prompts included; upstream's way ends at CLIP's
embedding. Where the segmenter finds no region the embeddings must agree; with weights that find
regions, focus moves them, and the cosine says so.
"""

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from sam2.build_sam import build_sam2
from sam2.sam2_image_predictor import SAM2ImagePredictor

from medfocus.benchmarks.environment import processor
from medfocus.benchmarks.random_weights import SAM2_CONFIGS
from medfocus.engine.artifact import EngineDirectory, read_engine_directory
from medfocus.engine.backends import Array, load_backend
from medfocus.engine.images import SourceImage
from medfocus.engine.prepare import collate, prepare
from medfocus.export.check_images import phantoms
from medfocus.models.architectures import build_clip
from medfocus.models.weights import CLIP_BUFFERS, load_strictly, read_weights
from medfocus.settings import Prompts

UPSTREAM = "SAM2ImagePredictor + open_clip, eager, fp32"


@dataclass(frozen=True, eq=False)
class Contender:
    """Something that embeds images: (B, E) float32 of a list of images."""

    name: str
    embed: Callable[[list[SourceImage]], Array]


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(prog="python -m medfocus.benchmarks.cpu_speed")
    parser.add_argument("engines", metavar="ENGINE", nargs="+", type=Path)
    parser.add_argument("--clip-weights", type=Path, required=True)
    parser.add_argument("--sam2-weights", type=Path, required=True)
    parser.add_argument("--images", type=int, default=4, help="a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    runs = json.loads(options.out.read_text()) if options.out.exists() else []
    torch.set_num_threads(options.threads)
    directories = [read_engine_directory(path) for path in options.engines]
    contenders = [_upstream(directories[0], options.clip_weights, options.sam2_weights)]
    contenders += [
        _engine(directory, name)
        for directory in directories
        for name in directory.manifest.backends
    ]
    figures = {
        "date": datetime.date.today().isoformat(),
        "machine": _machine(options.threads),
        "clip": directories[0].manifest.models.clip.architecture,
        "sam2": directories[0].manifest.models.sam2.architecture,
        "images a round": options.images,
        "rounds": options.rounds,
        "rows": measure(contenders, phantoms(options.images), options.rounds),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps([*runs, figures], indent=1) + "\n")
    for row in figures["rows"]:
        print(json.dumps(row))


def measure(
    contenders: list[Contender], images: list[SourceImage], rounds: int
) -> list[dict[str, Any]]:
    """A row a contender: images a second, their ratio to the first's, the worst cosine to it."""
    embeddings = [contender.embed(images) for contender in contenders]  # and warm up
    seconds = np.zeros((rounds, len(contenders)))
    for number in track(range(rounds), "rounds"):
        for turn in range(len(contenders)):
            place = (turn + number) % len(contenders)
            begun = time.perf_counter()
            contenders[place].embed(images)
            seconds[number, place] = time.perf_counter() - begun
    rows = []
    for place, contender in enumerate(contenders):
        ratio = seconds[:, 0] / seconds[:, place]
        rows.append(
            {
                "contender": contender.name,
                "images_per_second": round(len(images) / float(np.median(seconds[:, place])), 3),
                "ratio": [round(float(q), 2) for q in np.quantile(ratio, (0.25, 0.5, 0.75))],
                "worst_cosine": round(_worst_cosine(embeddings[place], embeddings[0]), 6),
            }
        )
    return rows


def _worst_cosine(found: Array, expected: Array) -> float:
    a, b = found.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(((a * b).sum(-1) / lengths).min())


def _engine(directory: EngineDirectory, name: str) -> Contender:
    """A backend of an engine, with the engine's own preparation, at its largest batch."""
    manifest = directory.manifest
    backend = load_backend(directory, name, "cpu")
    size = manifest.buckets[-1]

    def embed(images: list[SourceImage]) -> Array:
        embeddings = []
        for start in range(0, len(images), size):
            batch = collate(
                [
                    prepare(image, manifest.preprocessing, manifest.focus, manifest.prompts)
                    for image in images[start : start + size]
                ],
                manifest.preprocessing,
            )
            logits, _ = backend.segment(batch.segmenter, batch.points, batch.labels)
            embedding, *_ = backend.classify(batch.classifier, logits, batch.rows, batch.cols)
            embeddings.append(embedding)
        return np.concatenate(embeddings)

    return Contender(f"{name}, {manifest.backends[name]}", embed)


def _upstream(directory: EngineDirectory, clip_weights: Path, sam2_weights: Path) -> Contender:
    """What one would run without medfocus: image by image, as SAM2's predictor decodes."""
    manifest = directory.manifest
    clip = build_clip(manifest.models.clip.architecture).eval()
    load_strictly(clip, read_weights(clip_weights), str(clip_weights), ignore=CLIP_BUFFERS)
    transform: Any = open_clip.image_transform(clip.visual.image_size, is_train=False)
    sam2 = build_sam2(SAM2_CONFIGS[manifest.models.sam2.architecture], device="cpu")
    sam2.load_state_dict(read_weights(sam2_weights), strict=False)
    predictor = SAM2ImagePredictor(sam2)
    points, labels = _pixels(manifest.prompts)

    @torch.inference_mode()
    def embed(images: list[SourceImage]) -> Array:
        embeddings = []
        for image in images:
            height, width = image.pixels.shape[:2]
            predictor.set_image(image.pixels)
            predictor.predict(points * (width, height), labels, return_logits=True)
            embeddings.append(clip.encode_image(transform(Image.fromarray(image.pixels))[None]))
        found: Array = torch.cat(embeddings).numpy()
        return found

    return Contender(UPSTREAM, embed)


def _pixels(prompts: Prompts) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    return np.array(prompts.points, np.float32), np.array(prompts.labels, np.int32)


def _machine(threads: int) -> dict[str, Any]:
    packages = ("torch", "sam2", "open_clip_torch", "onnxruntime", "openvino", "nncf")
    return {
        "processor": processor(),
        "threads": threads,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


if __name__ == "__main__":
    main()
