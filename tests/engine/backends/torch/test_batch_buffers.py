"""PyTorch's buffers and preprocessing, on the CPU, against pillow and the host's buffers."""

from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.backends.torch.backend import TorchBackend
from medfocus.engine.backends.torch.batch_buffers import Stage, TorchBatchBuffers
from medfocus.engine.backends.torch.host_device_buffer import HostDeviceBuffer
from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.prompts import own_prompt
from medfocus.engine.runtime.batch_buffers import BatchBuffers, HostBatchBuffers
from medfocus.engine.runtime.buffer_pool import BufferPool
from medfocus.engine.runtime.execution import ThreadStream
from medfocus.engine.runtime.image_request import ImageRequest, Kept
from medfocus.errors import ImageError
from medfocus.export.engine_directory import build
from tests.conftest import random_bundle
from tests.engine.test_engine import pictures
from tests.errors import refuses


def present(array: np.ndarray | None) -> np.ndarray:
    """An output that was asked for."""
    assert array is not None
    return array


def run(buffers: BatchBuffers, requests: list[ImageRequest]) -> None:
    buffers.begin(requests)
    for row in range(len(requests)):
        buffers.prepare(row)
    buffers.segment()
    buffers.classify()


@pytest.mark.parametrize("mode", ["none", "overlay", "soft", "hard"])
def test_outputs_equal_those_of_the_hosts_buffers(tmp_path: Path, mode: str) -> None:
    """Images of several sizes in one batch, large ones resized by the host, and several batches."""
    build(tmp_path / "engine", random_bundle(mode))  # type: ignore[arg-type]
    directory = read_engine_directory(tmp_path / "engine")
    manifest = directory.manifest
    backend = TorchBackend(directory, "cpu")
    ours, host = (
        TorchBatchBuffers(backend, manifest, 8, "cpu"),
        HostBatchBuffers(backend, manifest, 8),
    )
    large = np.asarray(Image.fromarray(pictures(1)[0]).resize((900, 700)))
    given = [SourceImage(pixels, "image") for pixels in (*pictures(7), large)]
    prompt, all_kept = own_prompt((10, 10, 40, 50), None, 64, 64, "image"), Kept(embedding=True)
    for requests in (
        [ImageRequest(image, manifest.prompts, all_kept) for image in given],
        [ImageRequest(given[3], prompt, all_kept), ImageRequest(given[0], prompt, all_kept)],
        [ImageRequest(image, manifest.prompts, all_kept) for image in given[2:5]],
    ):
        run(ours, requests)
        run(host, requests)
        for row in range(len(requests)):
            found, expected = ours.outputs(row), host.outputs(row)
            assert found.focused == expected.focused
            np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
            np.testing.assert_allclose(
                present(found.focus_logits), present(expected.focus_logits), atol=1e-3
            )
            np.testing.assert_allclose(
                present(found.patch_focus), present(expected.patch_focus), atol=1e-4
            )
            np.testing.assert_allclose(
                present(found.embedding), present(expected.embedding), atol=1e-4
            )
            assert found.score == pytest.approx(expected.score, abs=1e-5)
    assert ours.nbytes > 8 * 3 * 256**2 * 4


@pytest.fixture
def backend(engine_directory: Path) -> TorchBackend:
    return TorchBackend(read_engine_directory(engine_directory), "cpu")


@pytest.fixture
def manifest(engine_directory: Path) -> Manifest:
    return read_engine_directory(engine_directory).manifest


def shown(*sizes: tuple[int, int], seed: int = 0) -> list[SourceImage]:
    random = np.random.default_rng(seed)
    return [
        SourceImage(random.integers(0, 256, (*size, 3), dtype=np.uint8), f"image {number}")
        for number, size in enumerate(sizes)
    ]


def test_both_models_inputs_are_bitwise_equal_to_the_hosts(
    backend: TorchBackend, manifest: Manifest
) -> None:
    """Alternating sizes and pixel aspects, and one between them that the host resizes."""
    ours, host = (
        TorchBatchBuffers(backend, manifest, 8, "cpu"),
        HostBatchBuffers(backend, manifest, 8),
    )
    one, other, large = (300, 200), (64, 64), (400, 400)
    for sizes in ((other, one, large, other, one, large, (33, 57)), (one, other, one)):
        images = shown(*sizes)
        images[0], images[2] = (
            replace(images[index], pixel_aspect=aspect) for index, aspect in ((0, 2.5), (2, 0.4))
        )
        # Prompts of the zero-shot prompts' shape, different for each image.
        random = np.random.default_rng(1)
        drawn = random.uniform(size=(len(images), *np.shape(manifest.prompts.points)))
        requests = [
            ImageRequest(image, replace(manifest.prompts, points=points.tolist()))
            for image, points in zip(images, drawn, strict=True)
        ]
        run(ours, requests)
        run(host, requests)
        batch = host._batch
        for row in range(len(requests)):
            for found, expected in (
                (ours._images.segmenter, batch.segmenter),
                (ours._images.classifier, batch.classifier),
                (ours._rows.device, batch.rows),
                (ours._cols.device, batch.cols),
                *zip(ours._prompts.tensors(8), (batch.points, batch.labels), strict=True),
            ):
                np.testing.assert_array_equal(found[row].numpy(), expected[row])
            np.testing.assert_allclose(
                ours.outputs(row).probabilities, host.outputs(row).probabilities, atol=1e-5
            )


def test_a_failed_image_does_not_affect_its_neighbours(
    backend: TorchBackend, manifest: Manifest
) -> None:
    buffers, host = (
        TorchBatchBuffers(backend, manifest, 4, "cpu"),
        HostBatchBuffers(backend, manifest, 4),
    )
    images = shown((300, 200), (2, 40_000), (64, 64))
    requests = [ImageRequest(image, manifest.prompts) for image in images]
    buffers.begin(requests)
    buffers.prepare(2)
    with refuses(ImageError, "image.too_large"):
        buffers.prepare(1)
    buffers.prepare(0)
    buffers.segment()
    buffers.classify()
    run(host, [requests[0], requests[2]])
    for row, expected in ((0, host.outputs(0)), (2, host.outputs(1))):
        np.testing.assert_allclose(
            buffers.outputs(row).probabilities, expected.probabilities, atol=1e-5
        )


def test_host_memory_is_on_the_host_whatever_the_default_device() -> None:
    with torch.device("meta"):
        buffers = HostDeviceBuffer("cpu", torch.float32, 2, 3)
    assert (buffers.host.device.type, buffers.device.device.type) == ("cpu", "cpu")


class Replayed:
    """A stand-in for a CUDA graph: runs the stage on as many rows as were captured."""

    def __init__(
        self, buffers: TorchBatchBuffers, work: str, stage: Stage, bucket: int, done: list[tuple]
    ) -> None:
        self._run, self._name, self._done = partial(buffers._eager, stage, bucket), work, done
        self._bucket = bucket

    def replay(self) -> None:
        self._done.append((self._name, self._bucket))
        self._run()


def with_captured_graphs(
    backend: TorchBackend, manifest: Manifest, *buckets: int
) -> tuple[TorchBatchBuffers, list[tuple]]:
    buffers = TorchBatchBuffers(backend, manifest, 8, "cpu")
    done: list[tuple] = []
    works: dict[str, Stage] = {"classify": "classify", "segment": "segment"}
    works |= {f"segment {shape}": "segment" for shape in buffers._prompts.usual[1:]}
    for (work, stage), bucket in product(works.items(), buckets):
        buffers._captured[work, bucket] = Replayed(buffers, work, stage, bucket, done)  # type: ignore[assignment]
    return buffers, done


@pytest.mark.parametrize(("count", "bucket"), [(1, 1), (2, 4), (4, 4), (5, None)])
def test_the_smallest_graph_with_room_is_replayed(
    backend: TorchBackend, manifest: Manifest, count: int, bucket: int | None
) -> None:
    buffers, done = with_captured_graphs(backend, manifest, 4, 1)
    run(buffers, [ImageRequest(image, manifest.prompts) for image in shown(*[(64, 64)] * count)])
    assert done == ([] if bucket is None else [("segment", bucket), ("classify", bucket)])


def test_each_shape_of_prompts_has_graphs_of_its_own(
    backend: TorchBackend, manifest: Manifest
) -> None:
    """A caller's box, then its point, then more points than there are graphs for, and none."""
    box = own_prompt((10, 10, 40, 50), None, 64, 64, "image")
    point = own_prompt(None, [(20, 30)], 64, 64, "image")
    points = own_prompt(None, [(20, 30), (40, 30), (5, 5, 0)], 64, 64, "image")
    buffers, done = with_captured_graphs(backend, manifest, 2)
    host = HostBatchBuffers(backend, manifest, 2)
    # The two images of a batch have different prompts, and the point's are the earlier box's.
    nearer = own_prompt((12, 8, 60, 30), None, 64, 64, "image")
    for prompts in ((box, nearer), (point, point), (points, points), (manifest.prompts,) * 2):
        requests = [
            ImageRequest(image, own)
            for image, own in zip(shown((64, 64), (50, 80)), prompts, strict=True)
        ]
        run(buffers, requests)
        run(host, requests)
        for row in range(2):
            np.testing.assert_allclose(
                present(buffers.outputs(row).focus_logits),
                present(host.outputs(row).focus_logits),
                atol=1e-3,
            )
    segmented = [work for work, _ in done if work != "classify"]
    assert segmented == ["segment (1, 2)", "segment (1, 1)", "segment"]


def test_what_runs_without_a_graph_is_warmed_up_too(
    backend: TorchBackend, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory is not that of the graphs, and part of what `memory_limit` is about."""
    buffers, done = with_captured_graphs(backend, manifest, 2)
    shapes, segment = [], backend.segment_tensors

    def recorded(image: torch.Tensor, points: torch.Tensor, labels: torch.Tensor) -> Any:
        shapes.append(tuple(labels.shape))
        return segment(image, points, labels)

    monkeypatch.setattr(backend, "segment_tensors", recorded)
    stream = ThreadStream("warm-up")
    with closing(BufferPool([buffers], stream, stream)) as pool:
        pool.warm_up(manifest, 2)
    assert shapes == [(2, *np.shape(manifest.prompts.labels)), (2, 1, 3)]
    assert [work for work, _ in done] == ["segment", "classify", "classify"]


@pytest.mark.parametrize("poisoned", [False, True])
def test_rows_of_an_earlier_batch_do_not_affect_the_outputs(
    backend: TorchBackend, manifest: Manifest, poisoned: bool
) -> None:
    """A graph computes them too, whatever they contain."""
    buffers, done = with_captured_graphs(backend, manifest, 4)
    host = HostBatchBuffers(backend, manifest, 4)
    run(
        buffers, [ImageRequest(image, manifest.prompts) for image in shown(*[(90, 70)] * 4, seed=1)]
    )
    if poisoned:
        for tensor in (
            buffers._images.segmenter,
            buffers._images.classifier,
            buffers._rows.device,
            buffers._logits.device,
        ):
            tensor.fill_(float("nan"))
    requests = [ImageRequest(image, manifest.prompts) for image in shown((64, 64), (50, 80))]
    run(buffers, requests)
    run(host, requests)
    assert done == [("segment", 4), ("classify", 4)] * 2
    for row in range(2):
        found, expected = buffers.outputs(row), host.outputs(row)
        assert found.focused == expected.focused
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
        np.testing.assert_allclose(
            present(found.focus_logits), present(expected.focus_logits), atol=1e-3
        )
        np.testing.assert_allclose(
            present(found.patch_focus), present(expected.patch_focus), atol=1e-4
        )
