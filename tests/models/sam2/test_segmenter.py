"""Segmenter, compared with SAM2ImagePredictor at full size, with seeded random weights."""

import numpy as np
import pytest
import torch
from sam2.build_sam import build_sam2
from sam2.sam2_image_predictor import SAM2ImagePredictor

from medfocus.errors import InputError
from medfocus.models.sam2.segmenter import Segmenter
from medfocus.models.weights import SAM2_VIDEO_ONLY, load_strictly
from medfocus.settings import FOREGROUND
from tests.errors import refuses

CONFIGS = {
    "sam2.1_hiera_tiny": "configs/sam2.1/sam2.1_hiera_t.yaml",
    "sam2.1_hiera_small": "configs/sam2.1/sam2.1_hiera_s.yaml",
    "sam2.1_hiera_base_plus": "configs/sam2.1/sam2.1_hiera_b+.yaml",
    "sam2.1_hiera_large": "configs/sam2.1/sam2.1_hiera_l.yaml",
}


def pair(architecture: str, size: int = 1024) -> tuple[SAM2ImagePredictor, Segmenter]:
    """Upstream's predictor and our module, with the same random weights."""
    torch.manual_seed(13)
    overrides = [f"++model.image_size={size}"]
    upstream = build_sam2(CONFIGS[architecture], device="cpu", hydra_overrides_extra=overrides)
    for parameter in upstream.parameters():
        if parameter.abs().max() == 0:  # zeros would hide parameters that are left out
            torch.nn.init.normal_(parameter, std=0.05)
    ours = Segmenter(architecture, size).eval()
    load_strictly(ours, upstream.state_dict(), architecture, ignore=SAM2_VIDEO_ONLY)
    predictor = SAM2ImagePredictor(upstream)
    # Upstream has hard-coded feature sizes for 1024² images.
    predictor._bb_feat_sizes = [(size // 4,) * 2, (size // 8,) * 2, (size // 16,) * 2]
    return predictor, ours


def pictures(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(17).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture(
    scope="module",
    params=["sam2.1_hiera_tiny", pytest.param("sam2.1_hiera_base_plus", marks=pytest.mark.long)],
)
def full_size(request: pytest.FixtureRequest) -> tuple[SAM2ImagePredictor, Segmenter]:
    return pair(request.param)


@torch.inference_mode()
def test_a_batch_equals_upstream_image_by_image(
    full_size: tuple[SAM2ImagePredictor, Segmenter], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, ours = full_size
    size, prompts = ours.image_size, 2
    images = pictures(2, size)
    random = np.random.default_rng(19)
    points = random.uniform(0, size, (2, prompts, 2, 2)).astype(np.float32)
    labels = random.integers(0, 2, (2, prompts, 2))
    corners = random.uniform(0, size, (2, prompts, 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners.min(2), corners.max(2)], -1)  # (B, P, 4)
    # Through upstream's transforms, so that the inputs are upstream's too.
    inputs = torch.stack([predictor._transforms(image) for image in images])
    embedded = ours.embed_image(inputs)  # once for all prompts: it takes ten seconds
    monkeypatch.setattr(ours, "embed_image", lambda _: embedded)
    by_points = ours(inputs, torch.tensor(points), torch.tensor(labels))
    by_boxes = ours(
        inputs, torch.zeros(2, prompts, 0, 2), torch.zeros(2, prompts, 0).int(), torch.tensor(boxes)
    )
    by_both = ours(inputs, torch.tensor(points), torch.tensor(labels), torch.tensor(boxes))
    for row, image in enumerate(images):
        predictor.set_image(image)
        for prompt in range(prompts):
            point = {"point_coords": points[row, prompt], "point_labels": labels[row, prompt]}
            box = {"box": boxes[row, prompt]}
            for (logits, iou), arguments in (
                (by_points, point),
                (by_boxes, box),
                (by_both, point | box),
            ):
                _, expected_iou, expected = predictor.predict(**arguments, multimask_output=True)
                np.testing.assert_allclose(logits[row, prompt].numpy(), expected, atol=1e-4, rtol=0)
                np.testing.assert_allclose(iou[row, prompt].numpy(), expected_iou, atol=1e-4)


@torch.inference_mode()
def test_in_half_precision_embeddings_are_as_accurate_as_upstreams() -> None:
    predictor, ours = pair("sam2.1_hiera_tiny", 256)
    image = predictor._transforms(pictures(1, 256)[0])[None]

    def upstreams() -> list[torch.Tensor]:
        """Coarsest first and channels last, like ours."""
        finest, finer, coarse = predictor.model.forward_image(image)["backbone_fpn"]
        coarse = coarse + predictor.model.no_mem_embed.reshape(1, -1, 1, 1)
        return [level.movedim(1, -1) for level in (coarse, finer, finest)]

    exact = upstreams()
    for found, expected in zip(ours.embed_image(image), exact, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        found_half, expected_half = ours.embed_image(image), upstreams()
    assert found_half[0].dtype == torch.float32, "sums stay float32"
    for level, (found, expected) in enumerate(zip(found_half, expected_half, strict=True)):
        error, bound = ((half - exact[level]).abs().mean() for half in (found, expected))
        assert 0 < error <= 1.2 * bound


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["sam2.1_hiera_small", "sam2.1_hiera_large"])
def test_other_encoders_and_image_sizes_equal_upstream(architecture: str) -> None:
    predictor, ours = pair(architecture, size=256)
    image = pictures(1, 256)[0]
    predictor.set_image(image)
    point = np.array([[100.0, 40.0]], np.float32)
    _, expected_iou, expected = predictor.predict(point, np.array([1]), multimask_output=True)
    logits, iou = ours(
        predictor._transforms(image)[None],
        torch.tensor(point)[None, None],
        torch.full((1, 1, 1), FOREGROUND),
    )
    np.testing.assert_allclose(logits[0, 0].numpy(), expected, atol=1e-4, rtol=0)
    np.testing.assert_allclose(iou[0, 0].numpy(), expected_iou, atol=1e-4)


@torch.inference_mode()
def test_prompts_do_not_mix() -> None:
    """A prompt's masks do not depend on the other prompts."""
    torch.manual_seed(0)
    ours = Segmenter("medfocus_tiny").eval()
    image = torch.randn(1, 3, 256, 256)
    points = torch.tensor([[[[30.0, 60.0]], [[200.0, 90.0]]]])
    labels = torch.full((1, 2, 1), FOREGROUND)
    both, _ = ours(image, points, labels)
    second, _ = ours(image, points[:, 1:], labels[:, 1:])
    torch.testing.assert_close(both[:, 1:], second, atol=1e-5, rtol=0)
    assert (both[:, 0] - both[:, 1]).abs().max() > 1e-3


def test_unsupported_sizes_are_refused() -> None:
    for size in (250, 0, -32):
        with refuses(InputError, "input.invalid", "image_size"):
            Segmenter("medfocus_tiny", size)


def test_an_unknown_architecture_is_refused() -> None:
    with refuses(InputError, "model.unknown", "'sam3'") as caught:
        Segmenter("sam3")
    assert "sam2.1_hiera_tiny" in caught.value.hint
