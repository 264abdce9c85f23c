"""TensorRT's optimisation profiles: which shapes a plan accepts, and for which it is tuned.

One profile per bucket, tuned for that batch size and used for all batch sizes above the previous
bucket: TensorRT chooses kernels for a profile's `opt` shape, and the best ones for a batch of 32
are not the best for a single image. That costs one tuning run per bucket.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

Shape = tuple[int, ...]
Profile = dict[str, tuple[Shape, Shape, Shape]]  # input -> smallest, tuned and largest shape
Dimensions = tuple[int | str, ...]  # sizes; names for dynamic ones

# The most points that a caller's prompt may have, including a box's two corners.
MOST_POINTS = 16


def input_dimensions(path: Path) -> dict[str, Dimensions]:
    """A graph's inputs with their dimensions; dynamic ones as names."""
    graph = onnx.load(path, load_external_data=False).graph
    return {
        value.name: tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in graph.input
    }


def profiles(
    inputs: Mapping[str, Dimensions],
    buckets: Sequence[int],
    sizes: Mapping[str, tuple[int, int, int]],
) -> list[Profile]:
    """One profile per bucket: from one more than the previous bucket, tuned for the bucket itself.

    Args:
        inputs: the graph's; the dynamic dimension `batch` is the bucket's.
        buckets: ascending.
        sizes: smallest, tuned and largest size of the other dynamic dimensions, by name.
    """
    every = []
    for previous, bucket in zip((0, *buckets), buckets, strict=False):
        ranges = {**sizes, "batch": (previous + 1, bucket, bucket)}
        every.append({name: _shapes(dimensions, ranges) for name, dimensions in inputs.items()})
    return every


def _shapes(
    dimensions: Dimensions, ranges: Mapping[str, tuple[int, int, int]]
) -> tuple[Shape, Shape, Shape]:
    all_three = [ranges[d] if isinstance(d, str) else (d, d, d) for d in dimensions]
    smallest, tuned, largest = zip(*all_three, strict=True)
    return smallest, tuned, largest
