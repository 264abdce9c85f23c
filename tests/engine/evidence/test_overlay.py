"""The overlay's panels, bars and captions, by their pixels."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from medfocus.engine.evidence.overlay import draw
from medfocus.engine.preprocess.geometry import Geometry
from medfocus.errors import InputError
from tests.engine.test_prediction import failed, prediction
from tests.errors import refuses

MASK_COLOUR = np.array((0, 220, 255))
BOX = (0.0, 0.0, 400.0, 400.0)
GREY = np.full((400, 400, 3), 128, np.uint8)


def panels(picture: Image.Image, height: int = 400) -> list[np.ndarray]:
    """The three panels, 400 pixels wide, above the 60 pixels of the captions."""
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


def test_patches_are_drawn_over_the_classifiers_input() -> None:
    """Of a wide image the classifier's input is the middle square."""
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


def test_padding_outside_the_image_is_not_drawn() -> None:
    """A padded input extends above and below the image: two of four rows of patches are inside."""
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


def test_without_a_focus_nothing_is_painted_and_the_header_says_so() -> None:
    none = np.full((64, 64), -32.0, np.float32)
    unfocused = prediction(focused=False, focus_logits=none)
    picture = draw(GREY, unfocused, BOX)
    _, mask, patches = panels(picture)
    assert near(mask, 0.25 * 128 + 0.75 * 255, 2).all()
    assert near(patches, 0.25 * 128 + 0.75 * 255, 2).all()
    header = np.asarray(picture)[:110].reshape(-1, 3)
    assert near(header, (176, 58, 0)).any()
    assert not near(np.asarray(draw(GREY, prediction(), BOX))[:110], (176, 58, 0)).any()


def test_a_region_outside_the_classifiers_input_is_still_drawn() -> None:
    _, mask, _ = panels(draw(GREY, prediction(focused=False), BOX))
    assert near(mask, MASK_COLOUR).any()


def test_bars_are_proportional_to_the_probabilities() -> None:
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
    shown = prediction(
        source=name,
        label=name,
        probabilities={name: 0.5, "b": 0.3, "c": 0.1, "d": 0.1},
        image_size=(height, width),
    )
    seen = Geometry.fit(height, width, 224, "shortest")
    picture = draw(pixels, shown, (seen.top, seen.left, seen.bottom, seen.right))
    assert picture.mode == "RGB"
    assert 960 < picture.width < 1400
    assert 150 < picture.height < 700
    # Nothing is written into the margins, however long the names.
    array = np.asarray(picture)
    assert (array[:, :19] == 255).all()
    assert (array[:, -18:] == 255).all()


def test_a_failed_prediction_is_not_drawn() -> None:
    with refuses(InputError, "input.invalid", "a.png"):
        draw(GREY, failed(), BOX)
