"""Writes docs/runtime.md from recorded results, so that no number is typed.

    python -m tools.docs.runtime_page benchmarks/results/cpu -o docs/runtime.md

The folder holds soak.json, written by the command that the page names. Folders beside it may hold
the pipeline.json that `make gpu-check` writes, a folder a GPU.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from medfocus.benchmarks.gpu.pipeline_goals import AT_MOST, GOALS, verdict
from medfocus.engine.runtime.pipeline import MOST_BYTES
from tools.docs.page import table

TEXT = """# The runtime

`Engine.classify(batch)` and `Engine.stream(iterable)` run images through one pipeline:

```
 sources ─► read ─► waiting ─► prepare ─────► segment ─────► classify ─────► answer
          threads   images    threads, into   a stream       a stream        predictions,
                              a slot's rows                                  in order
```

```python
from medfocus.engine import Engine

engine = Engine.load("engines/mine")
predictions = engine.classify(["a.dcm", array, tensor])  # a list; every item is answered
for prediction in engine.stream(paths, batch_size=32):  # one by one, in order
    ...
engine.stats()  # what it did, what waits
engine.close()
```

- **A ring of slots** holds the batches that are under way: two on a CPU, three on a GPU. Buffers
  are allocated once, when the engine is loaded. Work on a slot goes from stage to stage by events;
  a slot is free again once its answers are copied out.
- **Streams.** On a CPU both models run on one worker thread with all cores. On a GPU each has its
  stream, so that a batch is classified while the next is segmented: CUDA streams with PyTorch,
  worker threads with the other runtimes, which have their own.
- **Callers share batches.** Whoever waits when a slot becomes free goes together, up to
  `max_batch` images with equally shaped prompts. A lone image waits for nobody; under load,
  batches grow by themselves. Each caller gets its own answers, or its own error.
- **Bounded.** Decoded images wait in {waiting} at most; then reading waits. `stream` pulls its
  iterable in the caller's thread, no more than the ring and a batch ahead.

| `Engine.load(...)` | |
|---|---|
| `max_batch` | most images that run together; by default the largest batch size of the export |
| `max_wait_ms` | how long a batch that is not full waits for more; 0 by default |
| `deterministic` | each image by itself: no bit of its answer depends on its neighbours |
| `memory_limit` | bytes; measured with a full batch of blank images, and refused with the numbers |

## A schedule

![Two slots, one stream on a CPU](../benchmarks/results/cpu/tiny/schedule.png)

`medfocus-bench pipeline --trace FILE --plot DIR` wrote it, from the events of a real run; the trace
opens in [Perfetto](https://ui.perfetto.dev).

## When something goes wrong

| | |
|---|---|
| an image that cannot be read or prepared | its prediction carries the error; its batch goes on |
| the iterable raises | all that came before is answered, then `stream` raises the same |
| the consumer stops, or an interrupt | what has not begun is given up; the engine can be used on |
| out of memory in a batch | it runs again in halves; the engine keeps to that size and logs it once |
| out of memory with one image, or while one is read or prepared | a `DeviceError` for that image |
| the backend dies | a `DeviceError` for all that was under way or waits; later calls raise it: load the engine again |
| `close()` | what is under way is answered, what waits gets an `InputError` |

Logs hold nothing of an image, of its file's name or of its tags. Threads do not come along in a
fork: load an engine in each process; one that was loaded before a fork says so.

## Measured

How fast the pipeline is beside the two graphs alone and beside PyTorch image by image, what each
stage takes, and what many callers get: [performance.md](performance.md).

## Under load

`python -m medfocus.benchmarks.experiments.soak`; each answer was compared with the one that its image gets
alone.

{soaks}

{gpu}

{goals}

{rest}torch.compile between the kernels is not used: on CPUs OpenVINO is faster without waiting for it, and
on a GPU it was not tried. `deterministic` runs batches of one image: what that costs is in
[performance.md](performance.md), in the rows of batch 1 beside larger ones. After out of memory
`max_batch` stays lower until the engine is loaded again.
"""  # noqa: E501

NO_GPU = """## Not measured

Nothing here has run on a GPU: not the CUDA streams, not the CUDA graphs (one a batch size and
stage, where a capture is refused eager), not the upload and resizing on the device (checked on the
CPU, to the bit of pillow's). `make gpu-check` tests and times all of it where there is a GPU; the
goals, on an H200, `base` in bf16, one prompt, images in memory:"""

ON_GPU = """## On a GPU

`make gpu-check` tests and times the pipeline where there is a GPU. `base` in bf16, one prompt,
images in memory; the goals are for an H200. {runs}"""


def read_results(folder: Path) -> dict[str, Any]:
    """soak.json of a folder, as `soak`, and every GPU's pipeline.json beside it, as `gpus`."""
    files = sorted(folder.resolve().parent.glob("*/pipeline.json"))
    recorded = [_read(file) for file in files if file.parent != folder.resolve()]
    return {"soak": _read(folder / "soak.json"), "gpus": recorded}


def _read(file: Path) -> Any:
    return json.loads(file.read_text("utf-8"))


def render(results: dict[str, Any]) -> str:
    """The page, from what `read_results` gives."""
    gpus = results["gpus"]
    return TEXT.format(
        waiting=f"{MOST_BYTES / 2**30:g} GiB",
        gpu=ON_GPU.format(runs=" ".join(map(_run, gpus))) if gpus else NO_GPU,
        goals=_goals(gpus),
        rest="## Not measured\n\n" if gpus else "",
        soaks="\n\n".join(map(_soak, results["soak"])),
    )


def _run(found: dict[str, Any]) -> str:
    environment, images = found["environment"], found.get("images")
    said = f"{environment['device']}: {environment['date'][:10]}"
    return f"{said}, {images:,} images a round." if images else f"{said}."


def _goals(gpus: list[dict[str, Any]]) -> str:
    """A row a goal, a column a GPU; while there is none, a column that says so."""
    names = [found["environment"]["device"] for found in gpus] or ["measured"]
    values = [found["goals"] for found in gpus] or [dict.fromkeys(GOALS)]
    rows = [
        [
            name,
            f"{'at most' if name in AT_MOST else 'at least'} {limit:g}",
            *(_figure(name, found[name]) for found in values),
        ]
        for name, limit in GOALS.items()
    ]
    return table(("", "goal", *names), rows)


def _figure(name: str, value: float | None) -> str:
    judged = verdict(name, value)
    return judged if value is None else f"{value:.3f}, {judged}"


def _soak(run: dict[str, Any]) -> str:
    stream, callers = run["stream"], run["callers"]
    latency = callers["latency_ms"]
    more = stream["mb_more_at_most_later"]
    return "\n".join(
        [
            f"{_where(run)}:",
            "",
            f"- {stream['images']:,} images through `stream`: {stream['right']:,} right, "
            f"{stream['images_per_second']} a second; resident memory rose by at most {more} MB "
            f"after the first 1,000 ({stream['mb_after_1000']:.0f} MB).",
            f"- {callers['callers']} threads, one image at a time, for {callers['seconds']:g} s: "
            f"{callers['answers']:,} answers, {callers['wrong']} wrong, "
            f"{callers['images_a_batch']} images a batch; latency p50 {latency['p50']:.0f} ms, "
            f"p95 {latency['p95']:.0f} ms, p99 {latency['p99']:.0f} ms.",
        ]
    )


def _where(run: dict[str, Any]) -> str:
    return f"`{run['engine']}` on {run['processor']}, {run['date']}"


def main() -> None:
    """Read the results and write the page."""
    parser = argparse.ArgumentParser(prog="python -m tools.docs.runtime_page")
    parser.add_argument("results", type=Path, help="the folder of soak.json")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.write_text(render(read_results(options.results)), "utf-8")


if __name__ == "__main__":
    main()
