"""`Engine` end to end: compared with the graphs run directly, and with every kind of input."""

import asyncio
import gc
import io
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file

from medfocus.engine import Engine, Prediction
from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.backends.torch.backend import TorchBackend
from medfocus.engine.io.images import ImageSource
from medfocus.engine.preprocess.resize import classifier_pixels, segmenter_pixels
from medfocus.engine.runtime import memory
from medfocus.engine.runtime.buffer_pool import BufferPool, host_buffer_pool
from medfocus.engine.runtime.metrics import STAGES, MetricsRecorder, Span
from medfocus.errors import DeviceError, EngineDirectoryError, ImageError, InputError, OutputError
from medfocus.export.engine_directory import build
from medfocus.models.graphs import ClassifierGraph, SegmenterGraph
from medfocus.models.presets import CLIP_MEAN, CLIP_STD, SAM2_MEAN, SAM2_STD, ZERO_SHOT
from medfocus.settings import Selection
from tests.conftest import CLASSES, random_bundle
from tests.engine.io.read import shipped
from tests.engine.runtime.schedules import DEADLINE
from tests.errors import refuses


@pytest.fixture(scope="module")
def engine(engine_directory: Path) -> Engine:
    return Engine.load(engine_directory)


def pictures(count: int) -> list[np.ndarray]:
    """Smooth random pictures of several sizes."""
    random = np.random.default_rng(37)
    sizes = [(256, 256), (300, 200), (90, 240), (64, 64), (512, 128), (256, 256), (33, 57)]
    return [
        np.asarray(
            Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
                sizes[number % 7][::-1], Image.Resampling.BICUBIC
            )
        )
        for number in range(count)
    ]


def assert_close(found: np.ndarray | None, expected: np.ndarray | None, atol: float) -> None:
    assert found is not None
    assert expected is not None
    np.testing.assert_allclose(found, expected, atol=atol)


def assert_same(ours: Prediction, expected: Prediction) -> None:
    assert (ours.label, ours.focused) == (expected.label, expected.focused)
    for name in CLASSES:
        assert ours.probabilities[name] == pytest.approx(expected.probabilities[name], abs=1e-5)
    assert_close(ours.focus_logits, expected.focus_logits, atol=1e-3)
    assert_close(ours.patch_focus, expected.patch_focus, atol=1e-4)


@torch.inference_mode()
def test_equals_the_graphs_run_directly(engine: Engine) -> None:
    """A square image needs no crop, so the pooling weights can be computed here."""
    bundle = random_bundle()
    picture = pictures(1)[0]
    predicted = engine.classify([picture])[0]

    def tensor(pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
        scaled = torch.tensor(pixels).permute(2, 0, 1)[None] / 255
        return (scaled - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    points = torch.tensor(ZERO_SHOT.points)[None] * 256
    focus, score = SegmenterGraph(bundle.segmenter, bundle.selection)(
        tensor(segmenter_pixels(picture, 256), SAM2_MEAN, SAM2_STD), points, torch.ones(1, 9, 1)
    )
    # 64 mask cells over 14 patches: 32/7 cells per patch, each weighted by its overlap.
    cells, patches = torch.arange(64.0), torch.arange(14.0)[:, None] * 64 / 14
    overlap = torch.minimum(cells + 1, patches + 64 / 14) - torch.maximum(cells, patches)
    rows = overlap.clamp(min=0)[None] * 14 / 64
    head = bundle.head
    output = ClassifierGraph(
        bundle.clip,
        bundle.focus,
        head.class_embeddings,
        head.logit_scale,
        head.strength,
        CLIP_MEAN,
        CLIP_STD,
    )(tensor(classifier_pixels(picture, 112, "shortest"), CLIP_MEAN, CLIP_STD), focus, rows, rows)
    assert predicted.focus_score == pytest.approx(score.item(), abs=1e-5)
    assert predicted.focused == bool(output.focused)
    assert_close(predicted.patch_focus, output.patch_focus[0], atol=1e-5)
    expected = output.probabilities[0].tolist()
    assert list(predicted.probabilities) == list(CLASSES)
    assert list(predicted.probabilities.values()) == pytest.approx(expected, abs=1e-5)
    assert predicted.label == CLASSES[int(np.argmax(expected))]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_batch_gives_the_predictions_of_single_images(engine: Engine, count: int) -> None:
    batch = pictures(count)
    together = engine.classify(batch)
    assert len(together) == count
    for picture, prediction in zip(batch, together, strict=True):
        assert_same(prediction, engine.classify([picture])[0])


def test_more_images_than_the_largest_bucket(engine: Engine) -> None:
    batch = pictures(7) * 6  # 42 images, at most 32 per batch
    predictions = engine.classify(batch)
    assert len(predictions) == 42
    for number, prediction in enumerate(predictions):
        assert prediction.source == f"item {number}"
        assert_same(prediction, predictions[number % 7])


def test_every_form_of_the_same_image(engine: Engine, tmp_path: Path) -> None:
    picture = pictures(1)[0]
    Image.fromarray(picture).save(tmp_path / "a.png")
    channels_first = torch.tensor(picture).permute(2, 0, 1)
    forms: list[ImageSource] = [
        picture,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(picture),
        channels_first,
        channels_first.float() / 255,
        picture / 255,
    ]
    predictions = engine.classify(forms)
    for prediction in predictions:
        assert prediction.error is None
        assert_same(prediction, predictions[0])
    assert_same(engine.classify(tmp_path / "a.png")[0], predictions[0])
    assert_same(engine.classify(picture)[0], predictions[0])
    stacked = engine.classify(np.stack([picture, picture]))
    assert len(stacked) == 2
    assert_same(stacked[1], predictions[0])


def test_the_callers_own_prompts(engine: Engine) -> None:
    batch = pictures(3)
    boxes = [(20, 30, 100, 120), None, None]
    points: list[Any] = [None, np.array([(50, 60)]), [(20, 30), (200, 80, 0)]]
    mixed = engine.classify(batch, boxes=boxes, points=points)
    for picture, box, point, prediction in zip(batch, boxes, points, mixed, strict=True):
        assert_same(prediction, engine.classify([picture], boxes=[box], points=[point])[0])
    plain = engine.classify(batch)
    assert mixed[0].focus_score != plain[0].focus_score
    at_corner = engine.classify(batch[:1], points=[[(0, 0)]])[0]
    assert at_corner.focus_score != engine.classify(batch[:1], points=[[(255, 255)]])[0].focus_score


@pytest.mark.parametrize(
    ("prompts", "what"),
    [
        ({"boxes": [(0, 0, 10)]}, "box"),
        ({"boxes": [(0, 0, 10, "x")]}, "box"),
        ({"boxes": [(50, 0, 10, 10)]}, "box"),
        ({"points": [[(float("nan"), 1)]]}, "point"),
        ({"points": [[(1, 1, 5)]]}, "point"),
        ({"points": [[]]}, "points"),
        ({"points": [[5]]}, "point"),
        ({"points": [[(1, 1)] * 1025]}, "points"),
        ({"points": [[(1, 1, 0.9)]]}, "point"),
        ({"boxes": [(0, 0, 10, 9999)]}, "prompt"),
        ({"points": [[(1, -1)]]}, "prompt"),
    ],
)
def test_unusable_prompts(engine: Engine, prompts: dict, what: str) -> None:
    code = "input.prompt_outside_image" if what == "prompt" else "input.prompt_malformed"
    prediction = engine.classify(pictures(1), **prompts)[0]
    assert isinstance(prediction.error, InputError)
    assert (prediction.error.item, prediction.error.code) == (f"{what} of item 0", code)
    with refuses(InputError, code, f"{what} of item 0"):
        engine.classify(pictures(1), **prompts, strict=True)


def test_bad_items_do_not_affect_the_others(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    good = pictures(2)
    batch: list[ImageSource] = [
        good[0],
        tmp_path / "text.png",
        np.full((8, 8), np.nan),
        tmp_path / "no.png",
        good[1],
    ]
    predictions = engine.classify(batch)
    errors = [prediction.error for prediction in predictions]
    assert [error is None for error in errors] == [True, False, False, False, True]
    assert all(isinstance(error, ImageError) for error in errors[1:4])
    codes = [error.code for error in errors if error]
    assert codes == ["image.not_an_image", "image.not_finite", "image.not_found"]
    assert "text.png" in str(errors[1])
    assert "item 2" in str(errors[2])
    assert predictions[1].label is None
    assert predictions[1].probabilities == {}
    assert_same(predictions[4], engine.classify([good[1]])[0])
    with refuses(ImageError, "image.not_an_image", "text.png"):
        engine.classify(batch, strict=True)


def test_a_bad_page_of_a_file_does_not_affect_other_pages_and_files(
    engine: Engine, tmp_path: Path
) -> None:
    """The second page is so thin that resizing it for CLIP would make it too large."""
    first, second = pictures(2)
    pages = [Image.fromarray(first), Image.new("RGB", (200_000, 1)), Image.fromarray(second)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    pages[2].save(tmp_path / "b.png")
    predictions = engine.classify([tmp_path / "a.tif", tmp_path / "b.png"])
    assert [prediction.source for prediction in predictions] == [
        f"{tmp_path}/a.tif#0",
        f"{tmp_path}/a.tif#1",
        f"{tmp_path}/a.tif#2",
        f"{tmp_path}/b.png",
    ]
    assert [prediction.error is None for prediction in predictions] == [True, False, True, True]
    assert "a.tif#1" in str(predictions[1].error)
    assert_same(predictions[2], predictions[3])


def test_probabilities_that_are_not_finite(
    engine_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine.load(engine_directory)
    classify = engine._backend.classify

    def broken(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        embedding, probabilities, patch_focus, focused = classify(*arrays)
        probabilities[1] = np.nan
        return embedding, probabilities, patch_focus, focused

    monkeypatch.setattr(engine._backend, "classify", broken)
    predictions = engine.classify(pictures(3))
    assert [prediction.label is None for prediction in predictions] == [False, True, False]
    assert isinstance(predictions[1].error, OutputError)
    with refuses(OutputError, "output.not_finite", "item 1"):
        engine.classify(pictures(3), strict=True)


def test_no_region_found_is_plain_clip(tmp_path: Path) -> None:
    build(tmp_path / "strict", replace(random_bundle(), selection=Selection(min_score=1.0)))
    build(tmp_path / "none", random_bundle("none"))
    plain = Engine.load(tmp_path / "none").classify(pictures(3))
    for prediction, expected in zip(
        Engine.load(tmp_path / "strict").classify(pictures(3)), plain, strict=True
    ):
        assert (prediction.focused, prediction.focus_score) == (False, 0.0)
        assert prediction.focus_mask is not None
        assert not prediction.focus_mask.any()
        assert prediction.probabilities == pytest.approx(expected.probabilities, abs=1e-5)


def test_a_closed_engine_is_an_error(engine_directory: Path) -> None:
    engine = Engine.load(engine_directory)
    engine.close()
    engine.close()
    with refuses(InputError, "engine.closed", "engine"):
        engine.classify(pictures(1))


def test_batches_of_unusual_types(engine: Engine) -> None:
    with refuses(InputError, "input.invalid", "batch"):
        engine.classify(None)  # type: ignore[call-overload]
    names = np.array(["no.png", "nowhere.png"])
    assert [prediction.source for prediction in engine.classify(names)] == list(names)


def test_an_empty_batch_and_a_wrong_number_of_boxes(engine: Engine) -> None:
    with refuses(InputError, "input.empty", "batch"):
        engine.classify([])
    with refuses(InputError, "input.count_mismatch", "boxes"):
        engine.classify(pictures(2), boxes=[None])


def test_mode_none_does_not_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path / "none", random_bundle("none"))
    engine = Engine.load(tmp_path / "none")
    monkeypatch.setattr(engine._backend, "segment", lambda *_: pytest.fail("segmented"))
    prediction = engine.classify(pictures(1))[0]
    assert prediction.label in CLASSES
    assert (prediction.focused, prediction.focus_score, prediction.focus_mask) == (
        False,
        None,
        None,
    )


@pytest.mark.parametrize("mode", ["overlay", "hard"])
def test_other_modes_classify_too(tmp_path: Path, mode: str) -> None:
    build(tmp_path / mode, random_bundle(mode))  # type: ignore[arg-type]
    build(tmp_path / "soft", random_bundle())
    soft = Engine.load(tmp_path / "soft").classify(pictures(3))
    for prediction, other in zip(
        Engine.load(tmp_path / mode).classify(pictures(3)), soft, strict=True
    ):
        assert prediction.focused
        assert_close(prediction.patch_focus, other.patch_focus, atol=1e-5)
        assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert prediction.probabilities != pytest.approx(other.probabilities, abs=1e-4)


def test_threads_get_their_own_predictions(engine: Engine) -> None:
    batch = pictures(7)
    expected = [engine.classify([picture])[0] for picture in batch]
    got: dict[int, list[Prediction]] = {}

    def ask(number: int) -> None:
        got[number] = [engine.classify([batch[number]])[0] for _ in range(3)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(7))
    for number in range(7):
        for prediction in got[number]:
            assert_same(prediction, expected[number])


def test_the_backend_is_called_by_one_thread_at_a_time(
    engine_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine.load(engine_directory)
    classify, inside, overlaps = engine._backend.classify, threading.Semaphore(), []

    def slow(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        overlaps.append(not inside.acquire(blocking=False))
        time.sleep(0.05)
        inside.release()
        return classify(*arrays)

    monkeypatch.setattr(engine._backend, "classify", slow)
    threads = [threading.Thread(target=engine.classify, args=(pictures(1),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps
    assert not any(overlaps)


def test_a_stream_gives_the_predictions_of_classify(engine_directory: Path, tmp_path: Path) -> None:
    """Files, arrays, pages and unreadable files, in order, pulled gradually."""
    engine = Engine.load(engine_directory, max_batch=2)
    first, second = pictures(2)
    Image.fromarray(first).save(
        tmp_path / "a.tif", save_all=True, append_images=[Image.fromarray(second)]
    )
    sources: list[ImageSource] = [tmp_path / "a.tif", first, tmp_path / "no.png", *pictures(40)]
    boxes = [None, (20, 30, 100, 120), *[None] * 41]
    pulled = 0

    def one_by_one() -> Iterator[object]:
        nonlocal pulled
        for source in sources:
            pulled += 1
            yield source

    expected = engine.classify(sources, boxes=boxes)
    stream = engine.stream(one_by_one(), boxes=boxes, batch_size=2)  # type: ignore[arg-type]
    predictions = [next(stream)]
    assert pulled < len(sources)
    predictions.extend(stream)
    assert [prediction.source for prediction in predictions] == [
        prediction.source for prediction in expected
    ]
    assert [prediction.source for prediction in predictions][:4] == [
        f"{tmp_path}/a.tif#0",
        f"{tmp_path}/a.tif#1",
        "item 1",
        f"{tmp_path}/no.png",
    ]
    for prediction, other in zip(predictions, expected, strict=True):
        if other.error is None:
            assert_same(prediction, other)
        else:
            assert isinstance(prediction.error, ImageError)
    each = list(engine.stream_each(sources[:3]))
    assert [len(frames) for frames in each] == [2, 1, 1]


def test_an_array_may_be_changed_once_it_was_yielded(engine: Engine) -> None:
    shown = pictures(6)[0::5]
    buffer = np.empty_like(shown[0])

    def reused() -> Iterator[np.ndarray]:
        for picture in shown:
            buffer[:] = picture
            yield buffer
            buffer[:] = 0

    for prediction, picture in zip(engine.stream(reused()), shown, strict=True):
        assert_same(prediction, engine.classify([picture])[0])


def test_unusable_stream_arguments(engine: Engine) -> None:
    with refuses(InputError, "input.invalid", "batch_size"):
        engine.stream(pictures(1), batch_size=0)
    for one in ("scan.png", pictures(1)[0], Image.new("L", (9, 9))):
        with refuses(InputError, "input.invalid", "sources"):
            list(engine.stream(one))  # type: ignore[arg-type]
    received: list[Prediction] = []
    with refuses(InputError, "input.count_mismatch", "boxes, points"):
        received.extend(engine.stream(pictures(2), boxes=[None]))
    with refuses(InputError, "input.count_mismatch", "boxes, points"):
        list(engine.stream(pictures(1), points=[None, None]))


@pytest.mark.parametrize(
    "setting",
    [
        {"max_batch": 0},
        {"max_batch": 64},
        {"max_batch": 2.5},
        {"max_batch": 2, "deterministic": True},
        {"max_wait_ms": -1.0},
        {"max_wait_ms": float("nan")},
        {"memory_limit": 0},
    ],
)
def test_settings_out_of_their_range(engine_directory: Path, setting: dict) -> None:
    with refuses(InputError, "input.invalid", next(iter(setting))):
        Engine.load(engine_directory, **setting)


def test_memory_is_measured_before_an_engine_is_returned(engine_directory: Path) -> None:
    assert Engine.load(engine_directory, memory_limit=10**12).classify(pictures(1))[0].label
    # In a process of its own: this one may reuse memory that it has freed before.
    script = f"""
from medfocus.engine import Engine
from medfocus.errors import InputError
try:
    Engine.load({str(engine_directory)!r}, max_batch=8, memory_limit=10**6)
except InputError as error:
    print(error.code, error.problem, sep=": ")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    found = re.match(r"input\.memory_limit_exceeded: .* 8 images .* (\S+) GB$", done.stdout.strip())
    assert found, done.stderr
    # The mask decoder's finest features alone, for nine prompts per image, twice.
    assert float(found[1]) * 1e9 > 2 * 8 * 9 * 64 * 64 * 16 * 4


def test_a_limit_that_cannot_be_measured_is_refused(
    engine_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU's memory needs nothing of the host's."""
    monkeypatch.setattr(memory, "_RESETS_THE_PEAK", Path("/nowhere/clear_refs"))
    with refuses(InputError, "input.invalid", "memory_limit"):
        Engine.load(engine_directory, device="cpu", memory_limit=10**12)
    free = iter([300, 100])
    monkeypatch.setattr(memory, "_free_if_any", lambda gpu: next(free))
    with memory.measured() as usage:
        pass
    assert usage == memory.Usage(cpu=None, cuda=200)


@pytest.mark.parametrize("fails", ["buffers", "warm-up", "limit"])
def test_a_load_that_failed_holds_no_memory(
    engine_directory: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """A caller that keeps the error can load again with a smaller batch."""
    alive: list[weakref.ref[object]] = []

    def buffer_pool(self: TorchBackend, manifest: Manifest, images: int) -> BufferPool:
        made = host_buffer_pool(self, self.device, manifest, images)
        alive.extend(weakref.ref(buffers) for buffers in made.buffers)
        if fails == "buffers":
            raise MemoryError
        return made

    def warm_up(self: BufferPool, manifest: Manifest, images: int) -> None:
        activations = np.ones(100_000_000, np.uint8)
        alive.append(weakref.ref(activations))
        if fails == "warm-up":
            raise MemoryError

    monkeypatch.setattr(TorchBackend, "buffer_pool", buffer_pool)
    monkeypatch.setattr(BufferPool, "warm_up", warm_up)
    gc.collect()
    gc.disable()  # releasing must not depend on the collector
    try:
        error, code = (
            (InputError, "input.memory_limit_exceeded")
            if fails == "limit"
            else (DeviceError, "device.out_of_memory")
        )
        with refuses(error, code):
            Engine.load(engine_directory, memory_limit=1)
        assert [held() for held in alive] == [None] * (2 if fails == "buffers" else 3)
    finally:
        gc.enable()


def test_deterministic_predictions_are_bitwise_independent_of_the_batch(
    engine_directory: Path,
) -> None:
    engine = Engine.load(engine_directory, deterministic=True)
    batch = pictures(7)
    for together, picture in zip(engine.classify(batch), batch, strict=True):
        single = engine.classify([picture])[0]
        assert together.probabilities == single.probabilities
        np.testing.assert_array_equal(together.focus_logits, single.focus_logits)
        np.testing.assert_array_equal(together.patch_focus, single.patch_focus)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("device lost"), DeviceError("CUDA", "device lost", "check the GPU")],
)
def test_a_backend_that_fails_ends_the_engine(
    engine_directory: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    engine = Engine.load(engine_directory)

    def fails(*arrays: np.ndarray) -> None:
        raise error

    monkeypatch.setattr(engine._backend, "segment", fails)
    predictions = engine.classify(pictures(3))
    assert all(isinstance(prediction.error, DeviceError) for prediction in predictions)
    with refuses(DeviceError, "device.failed", "engine") as caught:
        engine.classify(pictures(1))
    assert "device lost" in caught.value.problem
    engine.close()


def test_an_engine_that_is_dropped_ends_its_threads(engine_directory: Path) -> None:
    before = set(threading.enumerate())
    engine = Engine.load(engine_directory)
    engine.classify(pictures(1))
    own = set(threading.enumerate()) - before
    assert len(own) >= 4
    del engine
    gc.collect()
    for thread in own:
        thread.join(DEADLINE)
        assert not thread.is_alive()


def test_an_error_holds_neither_the_engine_nor_its_callers_images(
    engine_directory: Path,
) -> None:
    """Errors are kept, in predictions and by callers; their frames must not be kept alive."""
    engine = Engine.load(engine_directory)
    alive = weakref.ref(engine)
    kept = engine.classify(["no.png", np.zeros((1, 200_000, 3), np.uint8)])
    assert [type(prediction.error) for prediction in kept] == [ImageError, ImageError]
    engine.close()
    errors = []
    image = np.zeros((8, 8, 3), np.uint8)
    image_alive = weakref.ref(image)
    for _ in range(3):
        try:
            engine.classify([image])
        except InputError as error:
            errors.append(error.with_traceback(None))
    assert len({id(error) for error in errors}) == 3
    del engine, image
    gc.collect()
    assert alive() is None
    assert image_alive() is None


@pytest.mark.parametrize(("backend", "images"), [("torch", 1), ("openvino", 4)])
def test_an_engine_serves_threads_that_outlive_the_main_thread(
    exported_engine: Path, backend: str, images: int
) -> None:
    script = f"""
import sys, threading, time
import numpy as np
from medfocus.engine import Engine
engine = Engine.load({str(exported_engine)!r}, backend={backend!r})
def serve():
    threading.main_thread().join()
    time.sleep(0.1)
    predictions = engine.classify([np.full((40, 40), 100, np.uint8)] * {images})
    print(*[prediction.error or "classified" for prediction in predictions], flush=True)
threading.Thread(target=serve).start()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=4 * DEADLINE
    )
    assert done.stdout.split() == ["classified"] * images, done.stderr


def test_a_forked_process_has_no_engine(engine_directory: Path) -> None:
    engine, images = Engine.load(engine_directory), pictures(1)
    process = os.fork()
    if process == 0:
        try:
            engine.classify(images)
        except InputError as error:
            os._exit(7 if error.code == "engine.forked" else 1)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7
    engine.close()


@pytest.mark.parametrize(("before", "code"), [("onnxruntime", 0), ("openvino", 7), ("torch", 7)])
def test_loading_after_a_fork_works_or_is_refused(
    exported_engine: Path, before: str, code: int
) -> None:
    """In processes of their own: this one has loaded every runtime."""
    script = f"""
import os, sys
import numpy as np
from medfocus import Engine
from medfocus.errors import InputError
images = [np.full((40, 40), 100, np.uint8)] * 2
with Engine.load({str(exported_engine)!r}, {before!r}, "cpu") as engine:
    engine.classify(images)
if not (process := os.fork()):
    try:
        with Engine.load({str(exported_engine)!r}, {before!r}, "cpu") as engine:
            engine.classify(images, strict=True)
    except InputError as error:
        os._exit(7 if error.code == "engine.forked" else 1)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=4 * DEADLINE)
    assert done.returncode == code


def test_a_file_in_any_form_is_one_image(engine_directory: Path) -> None:
    path = shipped("CT_small.dcm")
    content, dataset = path.read_bytes(), dcmread(path)
    bare = Dataset()
    bare.update(dataset)
    with Engine.load(engine_directory, deterministic=True) as engine, path.open("rb") as file:
        (expected,) = engine.classify(path, strict=True)
        forms: list[Any] = [
            str(path),
            content,
            bytearray(content),
            file,
            io.BytesIO(content),
            dataset,
            bare,
        ]
        for form in (*forms[:3], dataset, io.BytesIO(content)):
            (alone,) = engine.classify(form, strict=True)
            assert alone.probabilities == expected.probabilities
        for number, prediction in enumerate(engine.classify(forms, strict=True)):
            assert prediction.probabilities == expected.probabilities
            assert prediction.source == (str(path) if not number else f"item {number}")
        for wrong in (io.StringIO("text"), b"", Dataset()):
            (prediction,) = engine.classify(wrong)
            assert isinstance(prediction.error, ImageError)
    assert "closed" in repr(engine)


def test_futures_and_awaitables(engine_directory: Path) -> None:
    images = pictures(6)

    async def answers(engine: Engine) -> list[list[Prediction]]:
        return await asyncio.gather(*(engine.aclassify(image, strict=True) for image in images))

    with Engine.load(engine_directory) as engine:
        expected = engine.classify(images)
        futures = [engine.submit(image) for image in images]
        for found in ([future.result() for future in futures], asyncio.run(answers(engine))):
            for (one,), other in zip(found, expected, strict=True):
                assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
        with refuses(InputError, "input.empty"):
            engine.submit([])
    with refuses(InputError, "engine.closed"):
        engine.submit(images[0])


def test_calls_see_the_work_on_their_own_images(engine_directory: Path) -> None:
    """Of a batch that they share each sees it; all work together is what the engine counts."""
    contents = [io.BytesIO() for _ in range(5)]
    for content, pixels in zip(contents, pictures(5), strict=True):
        Image.fromarray(pixels).save(content, "PNG")
    files = [content.getvalue() for content in contents]
    seen: dict[int, Sequence[Span]] = {}
    everything: list[Span] = []
    with Engine.load(engine_directory) as engine:
        engine.observe(everything.extend)
        futures = [
            engine.submit(files[:count], observe=partial(seen.__setitem__, count))
            for count in (1, 3, 5)
        ]
        for future in futures:
            future.result()
    for count, spans in seen.items():
        own = {stage: [span for span in spans if span.stage == stage] for stage in STAGES}
        assert len(own["read"]) == len(own["prepare"]) == count
        batches = {span.batch or 0 for span in own["prepare"]}
        for stage in ("segment", "classify", "answer"):
            assert sorted(span.batch or 0 for span in own[stage]) == sorted(batches)
        assert all(span.queued >= 0 for span in own["prepare"])
        assert set(spans) <= set(everything)
    for stage in ("read", "prepare"):
        assert sum(span.stage == stage for span in everything) == 9
    assert sum(span.images for span in everything if span.stage == "segment") == 9


def test_an_observer_that_raises_is_called_once_and_harms_nobody(
    engine_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def fail(spans: Sequence[Span]) -> None:
        calls.append(spans)
        raise ValueError("Smith^John")

    with Engine.load(engine_directory) as engine:
        engine.observe(fail)
        for _ in range(2):
            (prediction,) = engine.classify(pictures(1))
            assert prediction.error is None
        assert len(calls) == 1
    assert "Smith" not in caplog.text


def test_stats(engine_directory: Path, tmp_path: Path) -> None:
    engine = Engine.load(engine_directory)
    Image.fromarray(pictures(1)[0]).save(tmp_path / "a.png")
    engine.classify([tmp_path / "a.png", tmp_path / "no.png", *pictures(3)])
    stats = engine.stats()
    assert stats.images == 4
    assert [stage.images for stage in stats.stages.values()] == [1, 4, 4, 4, 4]
    assert stats.latency["p99"] > 0
    assert (stats.waiting, stats.waiting_bytes, stats.max_batch) == (0, 0, 32)
    assert stats.buffer_bytes > 2 * 32 * 3 * 256**2 * 4
    engine.close()


def test_a_call_does_not_compute_statistics(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MetricsRecorder, "stats", lambda *_: pytest.fail("computed"))
    assert engine.classify(pictures(1))[0].label


def test_logs_contain_no_patient_data(
    engine_directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At the lowest level, and from every library involved."""
    scan = Path(str(get_testdata_file("CT_small.dcm", download=False)))
    renamed = tmp_path / "Doe-Jane-1970.dcm"
    renamed.write_bytes(scan.read_bytes())
    (tmp_path / "Doe-John-1971.dcm").write_bytes(scan.read_bytes()[:3000])
    with caplog.at_level(0):
        engine = Engine.load(engine_directory)
        predictions = list(engine.stream(sorted(tmp_path.iterdir())))
        engine.close()
    assert [prediction.error is None for prediction in predictions] == [True, False]
    dataset = dcmread(scan)
    assert "engine loaded" in caplog.text
    for private in ("Doe", str(dataset.PatientName), dataset.PatientID, dataset.StudyInstanceUID):
        assert private not in caplog.text


def test_unknown_and_unavailable_backends_and_devices(engine_directory: Path) -> None:
    with refuses(InputError, "backend.unknown", "cobol"):
        Engine.load(engine_directory, backend="cobol")
    with refuses(InputError, "device.unknown", "abacus"):
        Engine.load(engine_directory, device="abacus")
    if not torch.cuda.is_available():
        with refuses(InputError, "backend.none_usable", "backend auto"):
            Engine.load(engine_directory, device="cuda")
        with refuses(InputError, "device.unavailable", "device cuda"):
            Engine.load(engine_directory, backend="torch", device="cuda")


def test_a_changed_byte_is_found(engine_directory: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(engine_directory, changed)
    weights = changed / "classifier.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with refuses(EngineDirectoryError, "engine.changed", "classifier.safetensors"):
        Engine.load(changed)
