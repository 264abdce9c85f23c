"""A contender in a process of its own: how long until it answers, and how much memory that takes.

    python -m medfocus.benchmarks.bench.timing.cold_start CONTENDER.json IMAGES.npy

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


class Alone(NamedTuple):
    """What a process of its own has shown.

    Attributes:
        loaded: seconds from its start until both models are loaded, Python and imports included.
        answered: seconds from there to the first batch's answers.
        peak_memory: of the process, MiB.
        steered: whether the focus moves the embedding at all.
        embedding: (B, E), those answers.
    """

    loaded: float
    answered: float
    peak_memory: float
    steered: bool
    embedding: Array


def alone(contender: Implementation, images: Sequence[SourceImage]) -> Alone:
    """Load a contender in a process of its own and let it answer one batch.

    Args:
        contender: who.
        images: of one size.

    Raises:
        InputError: it failed, or took too long; with what it said last.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "images.npy")
        np.save(file, np.stack([image.pixels for image in images]))
        description = json.dumps(asdict(contender), default=str)
        command = [sys.executable, "-m", __spec__.name, description, str(file), str(time.time())]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
        except subprocess.TimeoutExpired as error:
            problem = f"gave no answer within {LIMIT:.0f} s"
            raise InputError(contender.name, problem, "leave it out") from error
    if done.returncode == REFUSED:
        raise InputError(*json.loads(done.stdout.splitlines()[-1]))
    if done.returncode:
        said = done.stderr.strip().splitlines()
        if done.returncode < 0 or not said:  # a signal's number, of which it could say nothing
            said.append(f"exit status {done.returncode}")
        raise InputError(contender.name, f"failed: {said[-1]}", "see to that, or leave it out")
    loaded, answered, peak, steered, embedding = json.loads(done.stdout.splitlines()[-1])
    return Alone(loaded, answered, peak, steered, np.array(embedding, np.float32))


def main(description: str, file: str, started: str) -> None:
    """In that process: load, answer, print."""
    values = json.loads(description)
    contender = Implementation(**{**values, "engine": Path(values["engine"])})
    try:
        models = contender.load()
    except MedfocusError as error:
        print(json.dumps([error.item, error.problem, error.hint]))
        sys.exit(REFUSED)
    loaded = time.time()
    images = [SourceImage(pixels, "") for pixels in np.load(file, allow_pickle=False)]
    embedding = models.classify(images, models.segment(images))
    answered = time.time()
    peak = process_memory("VmHWM") / 2**20
    seconds = loaded - float(started), answered - loaded
    found = (*seconds, peak, models.steered, embedding.tolist())
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
