"""OpenVINO's graphs on batches: parts side by side, each image's answer its own."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as opset

from medfocus.engine.backends.openvino import TURN, _Graph

SIDE = math.isqrt(TURN // 8)  # of an image of which eight are a stream's turn
WEIGHTS = np.random.default_rng(3).normal(size=(12, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> _Graph:
    """(B, 1, 12), (B, 1, 1) -> their product with the weights (B, 1, 5), and its sum (B, 1)."""
    image = opset.parameter([-1, 1, 12], np.float32, name="image")
    scale = opset.parameter([-1, 1, 1], np.float32, name="scale")
    product = opset.multiply(opset.matmul(image, opset.constant(WEIGHTS), False, False), scale)
    total = opset.reduce_sum(product, np.array([2]))
    for node, name in ((image, "image"), (scale, "scale")):
        node.output(0).set_names({name})
    file = tmp_path_factory.mktemp("graph") / "graph.xml"
    model = openvino.Model([product, total], [image, scale])
    openvino.save_model(model, file, compress_to_fp16=False)
    return _Graph(openvino.Core(), file, "f32", batches=True)


def inputs(images: int) -> dict[str, Any]:
    random = np.random.default_rng(images)
    return {
        "image": random.normal(size=(images, 1, 12)).astype(np.float32),
        "scale": random.normal(size=(images, 1, 1)).astype(np.float32),
    }


@pytest.mark.parametrize("images", [1, 2, 3, 7, 16, 51])
def test_each_image_gets_its_answer(graph: _Graph, images: int) -> None:
    given = inputs(images)
    expected = (given["image"].astype(np.float64) @ WEIGHTS) * given["scale"]
    product, total = graph.run(given)
    np.testing.assert_allclose(product, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(total, expected.sum(2), rtol=1e-5, atol=1e-5)
    kept = product.copy()
    graph.run(inputs(images + 1))
    assert np.array_equal(product, kept)


class Stream:
    """An infer request that computes when it is waited for, and sees misuse."""

    def __init__(self, fails_at: float | None = None) -> None:
        self.fails_at, self.sizes = fails_at, list[int]()
        self.given: dict[str, Any] | None = None
        self.output_tensors: list[SimpleNamespace] = []

    def start_async(self, given: dict[str, Any], share_inputs: bool) -> None:
        assert self.given is None, "it is busy"
        assert share_inputs
        for tensor in self.output_tensors:
            tensor.data[:] = np.nan  # its memory is written again
        self.given = given
        self.sizes.append(len(given["image"]))

    def wait(self) -> None:
        if self.given is None:
            return
        image, self.given = self.given["image"], None
        if self.fails_at in image[:, 0, 0]:
            raise RuntimeError("std::bad_alloc")
        self.output_tensors = [SimpleNamespace(data=2 * image[:, 0, 0])]


def with_streams(streams: list[Stream]) -> _Graph:
    graph = _Graph.__new__(_Graph)
    graph._streams = streams  # type: ignore[assignment]
    return graph


def numbered(images: int) -> dict[str, Any]:
    numbers = np.arange(images, dtype=np.float32)
    return {"image": np.broadcast_to(numbers[:, None, None], (images, SIDE, SIDE))}


@pytest.mark.parametrize(
    ("images", "sizes"),
    [(3, [[1], [1], [1]]), (7, [[3], [3], [1]]), (60, [[8, 8, 8], [8, 8, 4], [8, 8]])],
)
def test_parts_are_shared_out_in_turns(images: int, sizes: list[list[int]]) -> None:
    streams = [Stream() for _ in range(3)]
    (doubled,) = with_streams(streams).run(numbered(images))
    assert np.array_equal(doubled, 2 * np.arange(images))
    assert [stream.sizes for stream in streams] == sizes


@pytest.mark.parametrize("image", [0, 9, 25, 49])
def test_when_one_fails_none_is_left_running(image: int) -> None:
    streams = [Stream(fails_at=image), Stream(fails_at=image)]
    graph = with_streams(streams)
    with pytest.raises(RuntimeError, match="bad_alloc"):
        graph.run(numbered(50))
    assert all(stream.given is None for stream in streams)
    for stream in streams:
        stream.fails_at = None
    (doubled,) = graph.run(numbered(50))
    assert np.array_equal(doubled, 2 * np.arange(50))


def test_fewer_images_than_streams_have_all_cores(graph: _Graph) -> None:
    streams = [Stream(), Stream()]
    alone = with_streams(streams)
    alone._whole = graph._whole
    alone.run(inputs(1))
    assert not any(stream.sizes for stream in streams)
