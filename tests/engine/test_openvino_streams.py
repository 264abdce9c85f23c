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
    graph = _Graph(openvino.Core(), file, "f32", most=64)
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

    def __init__(self, failures: dict[int, str] | None = None) -> None:
        self.failures = failures or {}  # by image
        self.busy, self.sizes = False, list[int]()
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
        for image, said in self.failures.items():
            if 2 * image in found:
                raise RuntimeError(said)
        self.output_tensors = [SimpleNamespace(data=found)]


class Compiled:
    """A compiled model of stand-ins."""

    def __init__(self, requests: list[Request]) -> None:
        self.requests, self.streams, self.released = requests, len(requests), 0

    def get_property(self, name: str) -> int:
        return {"NUM_STREAMS": self.streams}[name]

    def create_infer_request(self) -> Request:
        return self.requests.pop(0)

    def release_memory(self) -> None:
        self.released += 1


class Core:
    """Compiles two models, the first for one image alone."""

    def __init__(self, requests: list[Request]) -> None:
        self.alone = Request()
        self.models = [Compiled([self.alone]), Compiled(list(requests))]
        self.hints: list[dict[str, Any]] = []

    def compile_model(self, file: str, device: str, hints: dict[str, Any]) -> Compiled:
        self.hints.append(hints)
        return self.models[len(self.hints) - 1]


MakeGraph = Callable[[list[Request]], tuple[_Graph, Core]]


@pytest.fixture
def of_requests() -> Iterator[MakeGraph]:
    """A function that makes a graph of stand-ins, and gives their core too."""
    made = []

    def make(requests: list[Request]) -> tuple[_Graph, Core]:
        core = Core(requests)
        made.append(_Graph(core, "graph.xml", "f32", most=64))
        return made[-1], core

    yield make
    for graph in made:
        graph.close()


def numbered(images: int) -> dict[str, Any]:
    numbers = np.arange(images, dtype=np.float32)
    return {"image": np.broadcast_to(numbers[:, None, None], (images, SIDE, SIDE))}


@pytest.mark.parametrize(
    ("images", "sizes"),
    [(1, []), (2, [1, 1]), (3, [1, 1, 1]), (7, [1, 3, 3]), (60, [4, *[7] * 8])],
)
def test_parts_are_shared_out(images: int, sizes: list[int], of_requests: MakeGraph) -> None:
    requests = [Request() for _ in range(3)]
    graph, core = of_requests(requests)
    (doubled,) = graph.run(numbered(images))
    assert np.array_equal(doubled, 2 * np.arange(images))
    assert core.alone.sizes == ([1] if images == 1 else [])  # one image has all cores
    assert sorted(size for request in requests for size in request.sizes) == sizes
    if images == 60:
        assert all(len(request.sizes) >= 2 for request in requests)


def test_what_is_not_needed_is_not_compiled(of_requests: MakeGraph) -> None:
    graph, core = of_requests([Request(), Request()])
    graph.expect(1)
    graph.run(numbered(1))
    assert [hints["PERFORMANCE_HINT"] for hints in core.hints] == ["LATENCY"]
    graph.expect(8)
    graph.run(numbered(8))
    assert [hints["PERFORMANCE_HINT"] for hints in core.hints] == ["LATENCY", "THROUGHPUT"]
    assert core.hints[1]["PERFORMANCE_HINT_NUM_REQUESTS"] == 64


def test_one_stream_is_as_good_as_none(of_requests: MakeGraph) -> None:
    graph, core = of_requests([Request()])
    graph.run(numbered(5))
    graph.run(numbered(6))
    assert core.alone.sizes == [5, 6]
    assert len(core.hints) == 2


@pytest.mark.parametrize("image", [0, 9, 25, 49])
def test_when_one_fails_none_is_left_running(image: int, of_requests: MakeGraph) -> None:
    requests = [Request({image: "std::bad_alloc"}) for _ in range(2)]
    graph, core = of_requests(requests)
    with pytest.raises(RuntimeError, match="bad_alloc"):
        graph.run(numbered(50))
    assert not any(request.busy for request in requests)
    assert sum(size for request in requests for size in request.sizes) == 50
    assert [model.released for model in core.models] == [1, 1]  # for the smaller batch to come
    for request in requests:
        request.failures = {}
    (doubled,) = graph.run(numbered(50))
    assert np.array_equal(doubled, 2 * np.arange(50))


def test_out_of_memory_is_said_before_other_errors(of_requests: MakeGraph) -> None:
    """For then the batch is tried again in halves."""
    failures = {0: "another error", 15: "std::bad_alloc"}
    graph, _ = of_requests([Request(failures), Request(failures)])
    with pytest.raises(RuntimeError, match="bad_alloc"):
        graph.run(numbered(16))
