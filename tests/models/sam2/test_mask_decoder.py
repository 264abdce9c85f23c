"""Our mask decoder, compared with upstream's prompt by prompt, in float64."""

import pytest
import torch
from sam2.modeling.sam.mask_decoder import MaskDecoder

from medfocus.models.sam2.architecture import SAM2_ARCHITECTURES, build_mask_decoder


@torch.inference_mode()
@pytest.mark.parametrize(("images", "prompts", "points"), [(1, 1, 1), (2, 3, 2), (3, 2, 0)])
@pytest.mark.parametrize("architecture", ["medfocus_tiny", "sam2.1_hiera_base_plus"])
def test_the_decoder_equals_upstream(
    architecture: str, images: int, prompts: int, points: int
) -> None:
    torch.manual_seed(images)
    numbers = SAM2_ARCHITECTURES[architecture]
    ours = build_mask_decoder(numbers).double().eval()
    upstream = build_mask_decoder(numbers, MaskDecoder).double().eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    upstream.load_state_dict(ours.state_dict())
    channels, rows, columns = numbers.d_model, 6, 4

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.float64)

    embedding = random(images, channels, rows, columns)
    finest = random(images, channels // 8, 4 * rows, 4 * columns)
    finer = random(images, channels // 4, 2 * rows, 2 * columns)
    position = random(1, channels, rows, columns)
    prompted = random(images, prompts, points, channels)
    no_mask = random(1, channels)
    cells = embedding.movedim(1, -1) + no_mask
    masks, iou = ours(cells, finer.movedim(1, -1), finest.movedim(1, -1), position, prompted)
    assert masks.shape == (images, prompts, 3, 4 * rows, 4 * columns)
    assert iou.shape == (images, prompts, 3)
    for image in range(images):
        one = slice(image, image + 1)
        for prompt in range(prompts):
            expected, expected_iou, *_ = upstream(
                image_embeddings=embedding[one],
                image_pe=position,
                sparse_prompt_embeddings=prompted[one, prompt],
                dense_prompt_embeddings=no_mask[..., None, None].expand_as(embedding[one]),
                multimask_output=True,
                repeat_image=False,
                high_res_features=[finest[one], finer[one]],
            )
            torch.testing.assert_close(masks[image, prompt], expected[0], rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(iou[image, prompt], expected_iou[0], rtol=1e-9, atol=1e-9)
    assert masks.std() > 0.1
