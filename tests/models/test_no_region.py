"""Where no region is found, every focus mode gives exactly plain CLIP's output."""

import pytest
import torch

from medfocus.settings import FocusMode
from tests.models.test_focus import graph, inputs


@torch.inference_mode()
@pytest.mark.parametrize("mode", ["overlay", "soft", "hard"])
@pytest.mark.parametrize("images", [1, 2])
def test_without_a_region(mode: FocusMode, images: int) -> None:
    steered, plain = graph(mode, strength=0.7), graph("none")
    batch = [tensor[:images] for tensor in inputs(steered.cells)]
    output = steered(batch[0], torch.full_like(batch[1], -32.0), *batch[2:])
    expected = plain(*(tensor[:images] for tensor in inputs(plain.cells)))
    assert not output.focused.any()
    assert torch.equal(output.embedding, expected.embedding)
    assert torch.equal(output.probabilities, expected.probabilities)


@torch.inference_mode()
@pytest.mark.parametrize("mode", ["overlay", "soft", "hard"])
def test_in_a_batch_with_an_image_that_has_one(mode: FocusMode) -> None:
    """The batch is then computed differently; the output is the same up to rounding."""
    steered, plain = graph(mode, strength=0.7), graph("none")
    output = steered(*inputs(steered.cells, found=False))
    expected = plain(*inputs(plain.cells, found=False)).embedding
    assert output.focused.tolist() == [True, False]
    torch.testing.assert_close(output.embedding[1], expected[1], atol=2e-6, rtol=1e-6)
    assert (output.embedding[0] - expected[0]).abs().max() > 1e-3
