"""The focus mask against PyTorch's interpolation, and the overlay's pixels where they must be."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medfocus.engine.overlay import draw
from medfocus.engine.prediction import Prediction, mask_at
from medfocus.engine.preprocess.geometry import Geometry
from medfocus.errors import ImageError, InputError

MASK_COLOUR = np.array((0, 220, 255))


def prediction(**changes: Any) -> Prediction:
    """An answer on a 400 × 400 image whose focus is the quarter at the upper right."""
    logits = np.full((64, 64), -8.0, np.float32)
    logits[:32, 32:] = 8.0
    patch_focus = np.zeros((4, 4), np.float32)
    patch_focus[:2, 2:] = 1.0
    values: dict[str, Any] = {
        "source": "folder/image.png",
        "label": "lesion",
        "probabilities": {"lesion": 0.75, "normal": 0.25},
        "focused": True,
        "focus_score": 0.9,
        "focus_logits": logits,
        "image_size": (400, 400),
        "patch_focus": patch_focus,
    }
    return Prediction(**values | changes)


def failed() -> Prediction:
    error = ImageError("a.png", "is empty", "Copy it again")
    return Prediction("a.png", None, {}, False, None, None, None, None, (), error)


# --- prediction


@given(
    st.tuples(*[st.integers(1, 40)] * 4),
    st.integers(0, 2**32 - 1),
)
def test_mask_is_torchs_interpolation(sizes: tuple[int, int, int, int], seed: int) -> None:
    height, width, target_height, target_width = sizes
    logits = np.random.default_rng(seed).standard_normal((height, width)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(logits).double()[None, None],
        size=(target_height, target_width),
        mode="bilinear",
        align_corners=False,
    )[0, 0].numpy()
    mask = mask_at(logits, target_height, target_width)
    assert mask.shape == expected.shape
    decided = np.abs(expected) > 1e-6 * np.abs(logits).max()  # beyond float32's rounding
    np.testing.assert_array_equal(mask[decided], expected[decided] > 0)


def test_mask_of_a_large_image_has_no_seams() -> None:
    """Rows are computed in bands; a band's edge must not show."""
    logits = np.random.default_rng(5).standard_normal((16, 16)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None, None], (1300, 40), mode="bilinear", align_corners=False
    )[0, 0].numpy()
    decided = np.abs(expected) > 1e-5
    mask = prediction(focus_logits=logits, image_size=(1300, 40)).focus_mask
    assert mask is not None
    np.testing.assert_array_equal(mask[decided], expected[decided] > 0)


def test_prediction_is_plain_in_json_and_read_only() -> None:
    answer = prediction(focus_score=np.float32(0.5), warnings=("8 bits",))
    assert answer.to_json() == {
        "source": "folder/image.png",
        "label": "lesion",
        "probabilities": {"lesion": 0.75, "normal": 0.25},
        "focused": True,
        "focus_score": 0.5,
        "warnings": ["8 bits"],
        "error": None,
    }
    assert type(answer.to_json()["focus_score"]) is float
    assert answer.probability == 0.75
    with pytest.raises(TypeError):
        answer.probabilities["lesion"] = 1.0  # type: ignore[index]
    with pytest.raises(AttributeError):
        answer.label = "normal"  # type: ignore[misc]


def test_failed_prediction_says_why_and_has_no_mask() -> None:
    answer = failed()
    assert answer.probability is None
    assert answer.focus_mask is None
    assert answer.to_json()["error"] == "a.png: is empty. Copy it again."


def test_prediction_survives_pickling() -> None:
    for answer in (prediction(), failed()):
        copy = pickle.loads(pickle.dumps(answer))  # noqa: S301  (our own bytes)
        assert copy.to_json() == answer.to_json()
        np.testing.assert_array_equal(copy.focus_mask, answer.focus_mask)


# --- overlay

BOX = (0.0, 0.0, 400.0, 400.0)
GREY = np.full((400, 400, 3), 128, np.uint8)


def panels(picture: Image.Image, height: int = 400) -> list[np.ndarray]:
    """The three 400-pixel wide panels, found from the bottom, where the captions take 60 pixels."""
    pixels = np.asarray(picture)
    top = pixels.shape[0] - 60 - height
    return [pixels[top : top + height, left : left + 400] for left in (20, 440, 860)]


def near(pixels: np.ndarray, colour: Any, tolerance: int = 1) -> np.ndarray:
    difference: np.ndarray = np.abs(pixels.astype(int) - np.asarray(colour)).max(-1)
    return difference <= tolerance


def test_panels_show_image_mask_and_patches() -> None:
    image, mask, patches = panels(draw(GREY, prediction(), BOX))
    assert near(image, 128).all()
    inside, outside = np.zeros((2, 400, 400), bool)
    inside[4:194, 206:396] = True
    outside[206:], outside[:, :194] = True, True
    assert near(mask[inside], 0.75 * 128 + 0.25 * MASK_COLOUR).all()
    assert near(mask[outside], 128).all()
    border = near(mask[:, 300], MASK_COLOUR)
    assert border[195:205].any()
    assert not border[:190].any()
    for row in range(4):
        for column in range(4):
            heat = (253, 231, 37) if row < 2 and column >= 2 else (68, 1, 84)
            cell = patches[100 * row + 2 : 100 * row + 98, 100 * column + 2 : 100 * column + 98]
            assert near(cell, 0.65 * np.array(heat) + 0.35 * 128).all()


def test_texture_stays_visible_through_mask_and_patches() -> None:
    texture = np.zeros((400, 400, 3), np.uint8)
    texture[::2] = 200
    _, mask, patches = panels(draw(texture, prediction(), BOX))
    for panel in (mask, patches):
        lines = panel[10:90, 250].astype(int).sum(-1)
        assert np.abs(np.diff(lines)).min() > 100


def test_patches_lie_where_the_classifier_looked() -> None:
    """A wide image: the classifier sees its middle square alone."""
    seen = Geometry.fit(400, 800, 224, "shortest")
    focus = np.ones((4, 4), np.float32)
    box = (seen.top, seen.left, seen.bottom, seen.right)
    wide = np.full((400, 800, 3), 128, np.uint8)
    picture = draw(wide, prediction(image_size=(400, 800), patch_focus=focus), box)
    _, _, patches = panels(picture, height=200)
    pale = near(patches, 0.25 * 128 + 0.75 * 255, 2)
    assert pale[:, :100].all()
    assert pale[:, 300:].all()
    assert not pale[:, 100:300].any()


def test_padding_beyond_the_image_is_cut() -> None:
    """A padded input reaches above and below the image: of four rows of patches two are inside."""
    seen = Geometry.fit(400, 800, 224, "longest")
    focus = np.zeros((4, 4), np.float32)
    focus[1] = 1.0
    box = (seen.top, seen.left, seen.bottom, seen.right)
    wide = np.full((400, 800, 3), 128, np.uint8)
    picture = draw(wide, prediction(image_size=(400, 800), patch_focus=focus), box)
    _, _, patches = panels(picture, height=200)
    bright = near(patches, 0.65 * np.array((253, 231, 37)) + 0.35 * 128)
    assert bright[2:98, 2:98].all()
    assert not bright[102:].any()


def test_no_focus_is_stated_and_nothing_painted() -> None:
    none = np.full((64, 64), -32.0, np.float32)
    unfocused = prediction(focused=False, focus_logits=none)
    picture = draw(GREY, unfocused, BOX)
    _, mask, patches = panels(picture)
    assert near(mask, 0.25 * 128 + 0.75 * 255, 2).all()
    assert near(patches, 0.25 * 128 + 0.75 * 255, 2).all()
    header = np.asarray(picture)[:110].reshape(-1, 3)
    assert near(header, (176, 58, 0)).any()
    assert not near(np.asarray(draw(GREY, prediction(), BOX))[:110], (176, 58, 0)).any()


def test_a_region_that_the_classifier_does_not_see_is_still_shown() -> None:
    _, mask, _ = panels(draw(GREY, prediction(focused=False), BOX))
    assert near(mask, MASK_COLOUR).any()


def test_bars_are_as_long_as_the_probabilities() -> None:
    picture = np.asarray(draw(GREY, prediction(), BOX))
    first = near(picture[:110], (0, 90, 160)).sum(1).max()
    track = (
        first
        + near(picture[:110], (238, 240, 243))[near(picture[:110], (0, 90, 160)).any(1)]
        .sum(1)
        .max()
    )
    assert first / track == pytest.approx(0.75, abs=1 / track)


@pytest.mark.parametrize(
    ("height", "width"), [(16, 16), (1, 1), (8000, 40), (3, 8000), (4000, 6000), (401, 399)]
)
def test_any_size_and_any_name(height: int, width: int) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    name = "Läsion 肺炎 \ud800 " * 30
    answer = prediction(
        source=name,
        label=name,
        probabilities={name: 0.5, "b": 0.3, "c": 0.1, "d": 0.1},
        image_size=(height, width),
    )
    seen = Geometry.fit(height, width, 224, "shortest")
    picture = draw(pixels, answer, (seen.top, seen.left, seen.bottom, seen.right))
    assert picture.mode == "RGB"
    assert 960 < picture.width < 1400
    assert 150 < picture.height < 700
    # Nothing is written into the margins, however long the names.
    array = np.asarray(picture)
    assert (array[:, :19] == 255).all()
    assert (array[:, -18:] == 255).all()


def test_a_failed_prediction_is_not_drawn() -> None:
    with pytest.raises(InputError, match="has no answer to draw"):
        draw(GREY, failed(), BOX)
