"""OpenVINO's graphs on batches: parts side by side, each image's answer its own."""

import math
import time
from collections.abc import Callable, Iterator
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
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Graph]:
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
    graph = _Graph(openvino.Core(), file, "f32", batches=True)
    yield graph
    graph.close()


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


class Request:
    """An infer request that takes its time, and sees misuse."""

    def __init__(self, fails_at: float | None = None) -> None:
        self.fails_at, self.busy, self.sizes = fails_at, False, list[int]()
        self.output_tensors: list[SimpleNamespace] = []

    def infer(self, given: dict[str, Any], share_inputs: bool) -> None:
        self.start_async(given, share_inputs)
        self.wait()

    def start_async(self, given: dict[str, Any], share_inputs: bool) -> None:
        assert not self.busy
        assert share_inputs
        self.busy, self.given = True, given
        self.sizes.append(len(given["image"]))
        for tensor in self.output_tensors:
            tensor.data[:] = np.nan  # its memory is written again

    def wait(self) -> None:
        time.sleep(0.002)
        found = 2 * self.given["image"][:, 0, 0]  # still what it was
        self.busy = False
        if self.fails_at is not None and 2 * self.fails_at in found:
            raise RuntimeError("std::bad_alloc")
        self.output_tensors = [SimpleNamespace(data=found)]


@pytest.fixture
def of_requests() -> Iterator[Callable[[list[Request]], _Graph]]:
    """A function that makes a graph of stand-ins."""
    made = []

    def make(requests: list[Request]) -> _Graph:
        compiled = SimpleNamespace(
            get_property=lambda name: {"NUM_STREAMS": len(requests)}[name],
            create_infer_request=iter([Request(), *requests]).__next__,
        )
        core = SimpleNamespace(compile_model=lambda *_: compiled)
        made.append(_Graph(core, "graph.xml", "f32", batches=True))
        return made[-1]

    yield make
    for graph in made:
        graph.close()


def numbered(images: int) -> dict[str, Any]:
    numbers = np.arange(images, dtype=np.float32)
    return {"image": np.broadcast_to(numbers[:, None, None], (images, SIDE, SIDE))}


@pytest.mark.parametrize(
    ("images", "sizes"), [(3, [1, 1, 1]), (7, [1, 3, 3]), (60, [4, *[8] * 7]), (2, [2]), (1, [1])]
)
def test_parts_are_shared_out(
    images: int, sizes: list[int], of_requests: Callable[[list[Request]], _Graph]
) -> None:
    requests = [Request() for _ in range(3)]
    graph = of_requests(requests)
    (doubled,) = graph.run(numbered(images))
    assert np.array_equal(doubled, 2 * np.arange(images))
    # Fewer images than streams have all cores.
    whole = [] if images >= 3 else sizes
    assert graph._whole.sizes == whole
    assert sorted(size for request in requests for size in request.sizes) == (
        [] if whole else sizes
    )
    if images == 60:
        assert all(len(request.sizes) >= 2 for request in requests)


@pytest.mark.parametrize("image", [0, 9, 25, 49])
def test_when_one_fails_none_is_left_running(
    image: int, of_requests: Callable[[list[Request]], _Graph]
) -> None:
    requests = [Request(fails_at=image), Request(fails_at=image)]
    graph = of_requests(requests)
    with pytest.raises(RuntimeError, match="bad_alloc"):
        graph.run(numbered(50))
    assert not any(request.busy for request in requests)
    assert sum(size for request in requests for size in request.sizes) == 50
    for request in requests:
        request.fails_at = None
    (doubled,) = graph.run(numbered(50))
    assert np.array_equal(doubled, 2 * np.arange(50))
