"""`Prediction`: its mask compared with PyTorch's interpolation, its JSON, and pickling."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medfocus.engine.evidence.mask import mask_at
from medfocus.engine.io.notices import MIN_MAX
from medfocus.engine.prediction import Prediction
from medfocus.errors import ImageError, InputError
from tests.errors import refuses


def prediction(**changes: Any) -> Prediction:
    """A prediction for a 400 × 400 image whose focus is the upper right quarter."""
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
    error = ImageError("a.png", "is empty", "copy it again")
    return Prediction("a.png", None, {}, False, None, None, None, None, (), error)


@given(
    st.tuples(*[st.integers(1, 40)] * 4),
    st.integers(0, 2**32 - 1),
)
def test_the_mask_equals_torchs_interpolation(sizes: tuple[int, int, int, int], seed: int) -> None:
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


def test_the_mask_of_a_large_image_has_no_seams() -> None:
    """Rows are computed in bands, whose edges must not show."""
    logits = np.random.default_rng(5).standard_normal((16, 16)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None, None], (1300, 40), mode="bilinear", align_corners=False
    )[0, 0].numpy()
    decided = np.abs(expected) > 1e-5
    mask = prediction(focus_logits=logits, image_size=(1300, 40)).focus_mask
    assert mask is not None
    np.testing.assert_array_equal(mask[decided], expected[decided] > 0)


def test_a_prediction_is_plain_in_json_and_read_only() -> None:
    found = prediction(focus_score=np.float32(0.5), warnings=(MIN_MAX,))
    assert found.to_dict() == {
        "source": "folder/image.png",
        "label": "lesion",
        "probabilities": {"lesion": 0.75, "normal": 0.25},
        "focused": True,
        "focus_score": 0.5,
        "warnings": [str(MIN_MAX)],
        "warning_codes": ["pixels.min_max_normalised"],
        "error": None,
    }
    assert type(found.to_dict()["focus_score"]) is float
    assert found.probability == 0.75
    with pytest.raises(TypeError):
        found.probabilities["lesion"] = 1.0  # type: ignore[index]
    with pytest.raises(AttributeError):
        found.label = "normal"  # type: ignore[misc]


def test_a_failed_prediction_has_an_error_and_no_mask() -> None:
    found = failed()
    assert found.probability is None
    assert found.focus_mask is None
    assert found.to_dict()["error"] == str(found.error)


def test_a_prediction_can_be_pickled() -> None:
    for found in (prediction(), failed()):
        copy = pickle.loads(pickle.dumps(found))  # noqa: S301  (our own bytes)
        assert copy.to_dict() == found.to_dict()
        np.testing.assert_array_equal(copy.focus_mask, found.focus_mask)


def test_the_most_probable_classes() -> None:
    found = prediction(probabilities={"a": 0.1, "b": 0.6, "c": 0.3})
    assert found.top(2) == [("b", 0.6), ("c", 0.3)]
    assert len(found.top()) == 3
    assert failed().top() == []


def test_masks_are_saved_as_pictures_and_arrays(tmp_path: Path) -> None:
    found = prediction()
    for name in ("mask.png", "mask.npy"):
        found.save_mask(tmp_path / name)
    np.testing.assert_array_equal(np.load(tmp_path / "mask.npy"), found.focus_mask)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), found.focus_mask)
    with refuses(InputError, "input.output_format"):
        found.save_mask(tmp_path / "mask.tif")
    with refuses(InputError, "input.invalid", "a.png"):
        failed().save_mask(tmp_path / "mask.png")


def test_the_former_name_of_to_dict_still_works() -> None:
    with pytest.warns(DeprecationWarning, match="to_dict"):
        assert prediction().to_json() == prediction().to_dict()
