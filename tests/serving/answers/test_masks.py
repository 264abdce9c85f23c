"""Masks as run lengths and polygons: other programs draw the same pixels."""

import base64
import io
import json
import warnings
from typing import Any

import numpy as np
import pycocotools.mask as coco
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from medfocus.serving.answers.outlines import outlines
from medfocus.serving.answers.run_length import run_lengths

masks = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))
RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)


def decoded(mask: dict[str, Any]) -> np.ndarray:
    """Bool (H, W), as another program draws what a mask's JSON says."""
    height, width = mask["size"]
    if "png" in mask:
        return np.array(Image.open(io.BytesIO(base64.b64decode(mask["png"])))).astype(bool)
    if "counts" in mask:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy, for pycocotools
            return coco.decode(coco.frPyObjects(mask, height, width)).astype(bool)
    geometry = shapely.from_geojson(json.dumps(mask["polygon"]))
    assert geometry.is_valid
    y, x = np.mgrid[:height, :width] + 0.5  # the pixels' centres
    return shapely.contains_xy(geometry, x, y)


@settings(max_examples=200, deadline=None)
@given(masks)
@example(np.zeros((3, 2), bool))
@example(np.ones((2, 3), bool))
@example(RING)
@example(np.pad(RING, 1))
@example(np.eye(5, dtype=bool))
@example(~np.eye(5, dtype=bool))
def test_both_forms_are_the_mask_to_the_pixel(mask: np.ndarray) -> None:
    size = {"size": list(mask.shape)}
    for form in ({"counts": run_lengths(mask)}, {"polygon": outlines(mask)}):
        through = json.loads(json.dumps(size | form))
        np.testing.assert_array_equal(decoded(through), mask)


def test_rings_have_corners_only_and_holes_are_holes() -> None:
    mask = np.zeros((50, 80), bool)
    mask[10:40, 20:70] = True
    mask[20:30, 30:60] = False
    mask[2, 3] = True
    geometry = shapely.from_geojson(json.dumps(outlines(mask)))
    single, frame = sorted(geometry.geoms, key=lambda each: each.area)
    assert (len(single.interiors), len(frame.interiors)) == (0, 1)
    assert frame.exterior.is_ccw  # RFC 7946, 3.1.6
    assert not frame.interiors[0].is_ccw
    assert shapely.get_num_coordinates(geometry) == 5 + 9 + 9  # an octagon's corners, and the first
    assert frame.area == 30 * 50 - 10 * 30  # each outer corner loses what each inner one keeps
