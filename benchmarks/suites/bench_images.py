"""Preprocessing of an image: its time, and its results compared with upstream's code."""

import numpy as np
from pytest_benchmark.fixture import BenchmarkFixture
from sam2.utils.transforms import SAM2Transforms

from medfocus.engine.preprocess.geometry import Geometry, pooling_weights
from medfocus.engine.preprocess.resize import classifier_pixels, normalise, segmenter_pixels
from medfocus.models.presets import SAM2_MEAN, SAM2_STD
from tests.engine.preprocess.test_resize import from_open_clip, noise

IMAGE = noise(768, 1024)


def bench_segmenter_pixels(benchmark: BenchmarkFixture) -> None:
    pixels = benchmark(segmenter_pixels, IMAGE, 1024)
    expected = SAM2Transforms(resolution=1024, mask_threshold=0.0)(IMAGE).numpy()
    found = normalise(pixels[None], SAM2_MEAN, SAM2_STD)[0]
    assert np.abs(found - expected).max() <= (1 + 1e-3) / (255 * min(SAM2_STD))


def bench_classifier_pixels(benchmark: BenchmarkFixture) -> None:
    pixels = benchmark(classifier_pixels, IMAGE, 224, "shortest", "bicubic")
    assert np.array_equal(pixels, from_open_clip(IMAGE, 224, "shortest", "bicubic"))


def bench_pooling_weights(benchmark: BenchmarkFixture) -> None:
    geometry = Geometry.fit(768, 1024, 224, "shortest")
    rows, cols = benchmark(pooling_weights, geometry, 14, 256, 256)
    for found, start, stop, length in (
        (rows, geometry.top, geometry.bottom, 768),
        (cols, geometry.left, geometry.right, 1024),
    ):
        cells = np.linspace(start, stop, 15)
        pixels = np.linspace(0, length, 257)
        upper = np.minimum(cells[1:, None], pixels[None, 1:])
        overlap = (upper - np.maximum(cells[:-1, None], pixels[None, :-1])).clip(0)
        np.testing.assert_allclose(found, overlap / (cells[1] - cells[0]), atol=1e-7)
