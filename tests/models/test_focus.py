"""The focus maths and the classifier's graph, compared with their formulas."""

import copy

import pytest
import torch

from medfocus.engine.preprocess.geometry import Geometry, pooling_weights
from medfocus.errors import InputError
from medfocus.models.clip.architecture import build_vision_tower
from medfocus.models.clip.encoder import FocusCLIP
from medfocus.models.focus import (
    HIDDEN,
    hiding_bias,
    is_focused,
    kept_tokens,
    patches_from_pixels,
    pool_focus,
)
from medfocus.models.graphs import ClassifierGraph
from medfocus.models.presets import CLIP_MEAN, CLIP_STD
from medfocus.settings import Focus, FocusMode
from tests.errors import refuses

CLASSES = 5


def graph(mode: FocusMode, strength: float = 1.0) -> ClassifierGraph:
    torch.manual_seed(23)
    clip = FocusCLIP(build_vision_tower("medfocus_tiny"))
    return ClassifierGraph(
        clip,
        Focus(mode=mode),
        torch.randn(CLASSES, 128),
        torch.tensor(20.0),
        torch.full((clip.layers,), strength),
        CLIP_MEAN,
        CLIP_STD,
    ).eval()


def inputs(cells: int, found: bool = True) -> tuple[torch.Tensor, ...]:
    """Two images; the second's mask is empty unless `found`."""
    generator = torch.Generator().manual_seed(29)
    image = torch.randn(2, 3, 112, 112, generator=generator)
    logits = torch.full((2, 64, 64), -8.0)
    logits[0, 20:40, 10:34] = 6.0
    logits[1, 5:20, 30:60] = 6.0 if found else -32.0
    geometry = Geometry.fit(200, 320, 112, "shortest")
    rows, cols = pooling_weights(geometry, cells, 64, 64)
    return image, logits, torch.tensor(rows).expand(2, -1, -1), torch.tensor(cols).expand(2, -1, -1)


@torch.inference_mode()
def test_none_is_plain_clip_to_the_bit() -> None:
    none = graph("none")
    output = none(*inputs(14))
    assert torch.equal(output.embedding, none.clip(inputs(14)[0]))
    assert not output.focused.any()


@torch.inference_mode()
def test_probabilities_are_clips() -> None:
    none = graph("none")
    output = none(*inputs(14))
    feature = output.embedding.double()
    feature = feature / feature.norm(dim=-1, keepdim=True)
    expected = (20 * feature @ none.class_embeddings.double().T).softmax(-1)
    torch.testing.assert_close(output.probabilities.double(), expected, atol=1e-6, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("mode", ["soft", "hard", "overlay"])
def test_focus_changes_the_answer_and_an_empty_mask_does_not(mode: FocusMode) -> None:
    steered, plain = graph(mode), graph("none")
    image, logits, rows, cols = inputs(steered.cells, found=False)
    output = steered(image, logits, rows, cols)
    expected = plain(*inputs(14)).embedding
    assert output.focused.tolist() == [True, False]
    torch.testing.assert_close(output.embedding[1], expected[1], atol=1e-5, rtol=0)
    assert (output.embedding[0] - expected[0]).norm() > 1e-3 * expected[0].norm()


@torch.inference_mode()
@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_a_region_outside_the_crop_is_not_focused(mode: FocusMode) -> None:
    image, logits, rows, cols = inputs(14)
    logits = torch.full_like(logits, -32.0)
    logits[:, 20:40, :6] = 9.0  # the left rim, outside the centre crop
    output = graph(mode)(image, logits, rows, cols)
    assert not output.focused.any()
    torch.testing.assert_close(output.embedding, graph("none").clip(image), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_soft_with_strength_zero_is_plain_clip() -> None:
    image = inputs(14)[0]
    torch.testing.assert_close(
        graph("soft", strength=0.0)(*inputs(14)).embedding,
        graph("none").clip(image),
        atol=1e-5,
        rtol=0,
    )


def test_the_tokens_that_hard_keeps() -> None:
    focus = torch.tensor([[[1.0, 0.5], [0.1, 0.05]]]).expand(2, -1, -1)
    keep = kept_tokens(focus, torch.tensor([True, False]), Focus("hard", hard_threshold=0.1))
    assert keep.tolist() == [[True, True, True, False, False], 5 * [True]]
    bias = hiding_bias(keep, layers=3)
    assert bias.tolist() == 3 * [[[0, 0, 0, HIDDEN, HIDDEN], 5 * [0]]]


def test_the_bias_stays_finite_in_float16() -> None:
    assert torch.tensor(HIDDEN).half().isfinite()
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        logits = torch.tensor([10.0, 10.0 + HIDDEN], dtype=dtype)
        assert logits.float().softmax(0)[1] == 0


def test_pixels_and_patches_pool_to_the_same_focus() -> None:
    _, logits, rows, cols = inputs(14)
    _, _, pixel_rows, pixel_cols = inputs(112)
    patches = pool_focus(logits, rows, cols)
    pixels = pool_focus(logits, pixel_rows, pixel_cols)
    torch.testing.assert_close(patches_from_pixels(pixels, 14), patches, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_overlay_paints_the_region_and_keeps_its_texture() -> None:
    overlay = graph("overlay")
    image, logits, rows, cols = inputs(112)
    seen: list[torch.Tensor] = []
    overlay.clip.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    overlay(image, logits, rows, cols)
    inside = pool_focus(logits, rows, cols) > 0.99
    outside = pool_focus(logits, rows, cols) < 0.01
    change = (seen[0] - image).abs().amax(1)
    assert change[outside].max() < 0.05
    texture = torch.corrcoef(torch.stack([seen[0][:, 0][inside], image[:, 0][inside]]))[0, 1]
    assert change[inside].mean() > 0.3
    assert texture > 0.99


def test_an_image_is_focused_if_one_patch_is_above_the_threshold() -> None:
    focus = torch.zeros(2, 3, 3)
    focus[1, 1, 1] = 0.05
    assert is_focused(focus, Focus("soft", floor=0.02)).tolist() == [False, True]
    assert is_focused(focus, Focus("hard", hard_threshold=0.1)).tolist() == [False, False]


def test_a_head_of_another_depth_is_refused() -> None:
    with refuses(InputError, "input.invalid", "strength"):
        ClassifierGraph(
            copy.deepcopy(graph("soft").clip),
            Focus(),
            torch.randn(2, 128),
            torch.tensor(1.0),
            torch.ones(3),
            CLIP_MEAN,
            CLIP_STD,
        )
