"""Both graphs' inputs for pixels that are not square."""

import numpy as np
import pytest
from PIL import Image

from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import prepare
from medfocus.settings import (
    ClassifierInput,
    Focus,
    FocusMode,
    Preprocessing,
    Prompts,
    SegmenterInput,
)

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
PREPROCESSING = Preprocessing(
    SegmenterInput(64, MEAN, STD), ClassifierInput(32, 4, "shortest", "bicubic", MEAN, STD)
)
PROMPTS = Prompts((((0.5, 0.5),),), ((1,),))


@pytest.mark.parametrize("mode", ["soft", "hard", "overlay"])
def test_both_models_see_the_square_picture(mode: FocusMode) -> None:
    """An image whose columns are a third as wide is prepared as its square twin is."""
    y, x = np.mgrid[0:60, 0:90] / 30
    smooth = np.rint(120 + 100 * np.sin(2 * y) * np.cos(x)).astype(np.uint8)
    square = SourceImage(smooth[..., None].repeat(3, 2), "square")
    wide = Image.fromarray(square.pixels).resize((270, 60), Image.Resampling.BICUBIC)
    stored = SourceImage(np.asarray(wide), "stored", pixel_aspect=3.0)
    focus = Focus(mode)
    found = prepare(stored, PREPROCESSING, focus, PROMPTS)
    expected = prepare(square, PREPROCESSING, focus, PROMPTS)
    for ours, theirs in (
        (found.segmenter, expected.segmenter),
        (found.classifier, expected.classifier),
    ):
        assert np.abs(ours.astype(int) - theirs).max() <= 4
    assert found.rows.shape == (32 if mode == "overlay" else 4, 16)
    np.testing.assert_allclose(found.rows, expected.rows, atol=1e-6)
    np.testing.assert_allclose(found.cols, expected.cols, atol=1e-6)
    assert found.image_size == (60, 270)
