"""Which variant of the encoder the classifier's graph runs, eager and exported."""

import pytest
import torch
import torch.nn.functional as F

from medfocus.kernels import dispatch
from medfocus.models.clip.encoder import FocusCLIP
from medfocus.models.focus import hiding_bias, kept_tokens
from medfocus.settings import FocusMode
from tests.models.test_focus import graph, inputs


def relative_error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return float(((ours - reference).norm(dim=-1) / reference.norm(dim=-1)).max())


@torch.inference_mode()
@pytest.mark.parametrize("found", [True, False])
def test_hard_runs_only_on_the_kept_tokens(found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output is as if the others were hidden; an image without a region gets plain CLIP."""
    hard = graph("hard")
    image, logits, rows, cols = inputs(14, found)
    seen: list[torch.Tensor] = []
    kept = FocusCLIP.forward_kept

    def watched(clip: FocusCLIP, image: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        seen.append(keep)
        return kept(clip, image, keep)

    monkeypatch.setattr(FocusCLIP, "forward_kept", watched)
    output = hard(image, logits, rows, cols)
    expected_keep = (output.patch_focus > hard.focus.hard_threshold).flatten(1)
    (keep,) = seen
    if not found:
        expected_keep = expected_keep[:1]  # the second runs as plain CLIP
    assert torch.equal(keep[:, 1:], expected_keep)
    assert 0 < keep[0].sum() < keep[0].numel() / 2
    assert dispatch.last_path("masked_attention_varlen") == "torch"
    keep = kept_tokens(output.patch_focus, output.focused, hard.focus)
    bias = hiding_bias(keep, hard.clip.layers)
    assert relative_error(output.embedding, hard.clip(image, bias)) <= 1e-5


@torch.inference_mode()
def test_soft_adds_the_strength_of_each_layer_times_the_log() -> None:
    soft = graph("soft")
    soft.strength.data = torch.linspace(0.2, 1.0, soft.clip.layers)
    output = soft(*inputs(14, found=False))
    logs = output.patch_focus.double().clamp(min=soft.focus.floor).log().flatten(1)
    logs[1] = 0  # no region was found
    bias = soft.strength.double()[:, None, None] * F.pad(logs, (1, 0))
    expected = soft.clip(inputs(14)[0], bias.float())
    assert relative_error(output.embedding, expected) <= 1e-6


@pytest.mark.parametrize("mode", ["none", "overlay", "soft", "hard"])
def test_an_exported_graph_equals_the_eager_one(mode: FocusMode) -> None:
    """At batch sizes other than the example's; no shape in it depends on data."""
    steered = graph(mode)
    two = inputs(steered.cells, found=False)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(steered, two, dynamic_shapes=4 * ({0: batch},))
    names = {str(node.target) for node in program.graph.nodes}
    assert not any("nonzero" in name or "varlen" in name for name in names)
    exported = program.module()
    with torch.inference_mode():
        for count in (1, 2, 5):
            batched = [torch.cat([tensor, tensor, tensor])[:count] for tensor in two]
            ours, expected = exported(*batched), steered(*batched)
            assert relative_error(ours[0], expected.embedding) <= 1e-5
            torch.testing.assert_close(ours[1], expected.probabilities, atol=1e-6, rtol=1e-5)
            assert torch.equal(ours[3], expected.focused)
