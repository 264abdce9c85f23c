"""`Prediction.plot`, by what its axes hold, and a prediction's picture in a notebook."""

import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet
from PIL import Image

from medfocus.engine.evidence.mask import mask_at
from medfocus.engine.prediction import Prediction
from medfocus.errors import ImageError, InputError
from tests.engine.evidence.test_overlay import MASK_COLOUR, near
from tests.engine.io.read import shipped
from tests.engine.test_prediction import failed, prediction
from tests.errors import refuses


@pytest.fixture(autouse=True)
def without_a_window() -> Iterator[None]:
    with matplotlib.rc_context({"backend": "agg"}):
        yield
    pyplot.close("all")


def outlines(ax: Axes) -> list[ContourSet]:
    return [child for child in ax.get_children() if isinstance(child, ContourSet)]


def inside(ax: Axes, height: int, width: int) -> np.ndarray:
    """Which pixels' centres the outline encloses; with holes, by the even-odd rule."""
    (path,) = outlines(ax)[-1].get_paths()
    y, x = np.mgrid[:height, :width]
    centres = np.column_stack([x.ravel(), y.ravel()])
    enclosed = np.zeros(len(centres), bool)
    for polygon in path.to_polygons():
        enclosed ^= matplotlib.path.Path(polygon).contains_points(centres)
    return enclosed.reshape(height, width)


@pytest.mark.parametrize("size", [(400, 400), (90, 300), (37, 20)])
def test_the_outline_is_the_masks_border_on_the_image(size: tuple[int, int]) -> None:
    random = np.random.default_rng(3)
    coarse = random.standard_normal((6, 6)).astype(np.float32)
    logits = np.asarray(Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC))
    pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    ax = prediction(focus_logits=logits, image_size=size).plot(pixels)
    np.testing.assert_array_equal(ax.images[0].get_array(), pixels)
    mask = mask_at(logits, *size)
    # Half a cell of the logits' grid: the border may be drawn that much inside the image's edge.
    edge = max(1, -(-max(size) // 128))
    core = (slice(edge, -edge), slice(edge, -edge))
    assert 0.2 < mask.mean() < 0.8, "or nothing is compared"
    assert (inside(ax, *size)[core] != mask[core]).mean() < 0.01
    assert "lesion" in ax.get_title()


def test_it_draws_where_it_is_told_and_without_a_mask() -> None:
    _, (first, second) = pyplot.subplots(1, 2)
    pixels = np.zeros((400, 400, 3), np.uint8)
    assert prediction().plot(pixels, ax=second) is second
    assert outlines(second)
    assert not first.images
    assert not outlines(prediction(focus_logits=None, patch_focus=None).plot(pixels))
    nothing = np.full((64, 64), -32, np.float32)
    assert not outlines(prediction(focus_logits=nothing, focused=False).plot(pixels))
    whole = prediction(focus_logits=-nothing).plot(pixels)
    assert inside(whole, 400, 400)[4:-4, 4:-4].all()


def test_the_image_may_be_given_in_any_form_or_is_read_again(tmp_path: Path) -> None:
    pages = [np.full((20, 30, 3), value, np.uint8) for value in (10, 20, 30)]
    path = tmp_path / "pages.tif"
    first, *others = [Image.fromarray(page) for page in pages]
    first.save(path, save_all=True, append_images=others)
    second = prediction(source=f"{path}#1", image_size=(20, 30))
    for given in (None, path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        assert np.all(second.plot(given).images[0].get_array() == 20)
    assert np.all(second.plot(Image.fromarray(pages[2])).images[0].get_array() == 30)
    looks_like_a_frame = tmp_path / "a.png#1"
    first.save(looks_like_a_frame, "PNG")
    named = prediction(source=str(looks_like_a_frame), image_size=(20, 30))
    assert np.all(named.plot().images[0].get_array() == 10)


def test_pixels_that_are_not_square_are_shown_undistorted(tmp_path: Path) -> None:
    from pydicom import dcmread

    dataset = dcmread(shipped("CT_small.dcm"))
    dataset.PixelSpacing = [3.0, 1.0]
    dataset.save_as(tmp_path / "tall.dcm")
    found = prediction(source=str(tmp_path / "tall.dcm"), image_size=(128, 128))
    assert found.plot().get_aspect() == pytest.approx(3.0)


def test_what_cannot_be_plotted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pixels = np.zeros((400, 400, 3), np.uint8)
    with refuses(InputError, "input.invalid", "a.png"):
        failed().plot(pixels)
    with refuses(InputError, "input.invalid", "item 3"):
        prediction(source="item 3").plot()
    with refuses(InputError, "input.invalid", "image"):
        prediction().plot(pixels[:300])
    (tmp_path / "text.png").write_text("no picture")
    with refuses(ImageError, "image.not_an_image"):
        prediction(source=str(tmp_path / "text.png")).plot()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with refuses(InputError, "input.package_missing") as caught:
        prediction().plot(pixels)
    assert caught.value.hint == "pip install matplotlib"


# --- in a notebook


def shown(found: Prediction) -> np.ndarray:
    content = found._repr_png_()
    assert content is not None
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_a_notebook_shows_the_mask_and_the_patches() -> None:
    picture = shown(prediction())
    mask, patches = picture[:, :440], picture[:, 440:]
    tinted = near(mask, 0.75 * 128 + 0.25 * MASK_COLOUR)
    assert 0.9 * 200**2 < tinted.sum() <= 200**2
    top = np.flatnonzero(tinted.any(1))[0]
    assert not tinted[top + 210 :].any()
    bright = near(patches, 0.65 * np.array((253, 231, 37)) + 0.35 * 128)
    assert 0.9 * 200**2 < bright.sum() <= 200**2


def test_a_notebook_shows_what_there_is_and_reads_no_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Image.new("RGB", (400, 400)).save(tmp_path / "a.png")
    found = prediction(source=str(tmp_path / "a.png"))
    whole = shown(found)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("opened"))
    np.testing.assert_array_equal(shown(found), whole)
    without = shown(replace(found, focus_logits=None, patch_focus=None))
    assert 0 < without.shape[0] < whole.shape[0] / 2


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": (1, 100_000)},
        {"image_size": (100_000, 1)},
        {"probabilities": {"病变" * 200: 0.75, "lesion": 0.25}},
        {"focused": False, "focus_score": None},
        {"image_size": (0, 0)},
        {"focus_logits": np.zeros((0, 0), np.float32)},
        {"patch_focus": np.zeros((0, 0), np.float32)},
        {"label": "absent"},
    ],
)
def test_a_notebook_never_fails(changes: dict[str, Any]) -> None:
    content = prediction(**changes)._repr_png_()
    assert content is None or Image.open(io.BytesIO(content)).format == "PNG"
    assert failed()._repr_png_() is None
