"""TensorRT's optimisation profiles: which shapes a plan takes, and which it is tuned for.

One profile per bucket, tuned for that batch size and used for it and all that are larger than the
bucket before: TensorRT chooses kernels for a profile's `opt` shape, and the best ones for a batch
of 32 are not those for a single image. That costs a tuning run per bucket.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

Shape = tuple[int, ...]
Profile = dict[str, tuple[Shape, Shape, Shape]]  # input -> least, tuned and greatest shape
Dimensions = tuple[int | str, ...]  # sizes; names of those that vary

# The most points that a caller's own prompt may have, a box's two corners among them.
MOST_POINTS = 16


def input_dimensions(path: Path) -> dict[str, Dimensions]:
    """A graph's inputs with their dimensions, names standing for those that vary."""
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
    """One profile per bucket: from one more than the bucket before, tuned for the bucket itself.

    Args:
        inputs: of the graph; the varying dimension `batch` is the bucket's.
        buckets: ascending.
        sizes: least, tuned and greatest size of the other varying dimensions, by name.
    """
    made = []
    for before, bucket in zip((0, *buckets), buckets, strict=False):
        ranges = {**sizes, "batch": (before + 1, bucket, bucket)}
        made.append(
            {name: _shapes(dimensions, ranges) for name, dimensions in inputs.items()},
        )
    return made


def _shapes(
    dimensions: Dimensions, ranges: Mapping[str, tuple[int, int, int]]
) -> tuple[Shape, Shape, Shape]:
    all_three = [ranges[d] if isinstance(d, str) else (d, d, d) for d in dimensions]
    least, tuned, greatest = zip(*all_three, strict=True)
    return least, tuned, greatest
