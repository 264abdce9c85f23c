"""Cold starts: seconds until an implementation answers in its own process, and its peak memory.

    python -m medfocus.benchmarks.bench.timing.cold_start IMPLEMENTATION.json IMAGES.npy STARTED

is that process; it prints one line of JSON.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medfocus.benchmarks.baselines.implementations import Implementation
from medfocus.engine.io.images import SourceImage
from medfocus.engine.runtime.graphs import Array
from medfocus.engine.runtime.memory import process_memory
from medfocus.errors import InputError, MedfocusError

LIMIT = 900.0  # seconds
REFUSED = 3  # exit status of the process after an error of our own


class ColdStart(NamedTuple):
    """What an implementation's own process measured.

    Attributes:
        loaded: seconds from its start until both models are loaded, with Python and imports.
        answered: seconds from there to the first batch's embeddings.
        peak_memory: of the process, MiB.
        steered: whether the focus changes the embedding.
        embedding: (B, E).
    """

    loaded: float
    answered: float
    peak_memory: float
    steered: bool
    embedding: Array


def cold_start(implementation: Implementation, images: Sequence[SourceImage]) -> ColdStart:
    """Load an implementation in its own process and embed one batch, of images of one size.

    Raises:
        InputError: it failed, or took too long; with the last line of its messages.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "images.npy")
        np.save(file, np.stack([image.pixels for image in images]))
        description = json.dumps(asdict(implementation), default=str)
        command = [sys.executable, "-m", __spec__.name, description, str(file), str(time.time())]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
        except subprocess.TimeoutExpired as error:
            raise _failure(implementation, f"gave no answer within {LIMIT:.0f} s") from error
    if done.returncode == REFUSED:
        item, problem, hint, code = json.loads(done.stdout.splitlines()[-1])
        raise InputError(item, problem, hint, code=code)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        if done.returncode < 0 or not lines:  # killed by a signal, without a message
            lines.append(f"exit status {done.returncode}")
        raise _failure(implementation, f"failed: {lines[-1]}")
    loaded, answered, peak, steered, embedding = json.loads(done.stdout.splitlines()[-1])
    return ColdStart(loaded, answered, peak, steered, np.array(embedding, np.float32))


def _failure(implementation: Implementation, problem: str) -> InputError:
    return InputError(implementation.name, problem, "leave it out", code="bench.failed")


def main(description: str, file: str, started: str) -> None:
    """In that process: load, embed, print."""
    values = json.loads(description)
    implementation = Implementation(**{**values, "engine": Path(values["engine"])})
    try:
        models = implementation.load()
    except MedfocusError as error:
        print(json.dumps([error.item, error.problem, error.hint, error.code]))
        sys.exit(REFUSED)
    loaded = time.time()
    images = [SourceImage(pixels, "") for pixels in np.load(file, allow_pickle=False)]
    embedding = models.embed(images)
    seconds = loaded - float(started), time.time() - loaded
    peak = process_memory("VmHWM") / 2**20
    print(json.dumps([*seconds, peak, models.steered, embedding.tolist()]))


if __name__ == "__main__":
    main(*sys.argv[1:])
