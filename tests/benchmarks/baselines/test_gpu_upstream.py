"""Upstream's own code runs as it is measured, small and on the CPU."""

from typing import Any

import pytest
import torch

from medfocus.benchmarks.baselines.gpu_upstream import Upstream
from medfocus.benchmarks.gpu.engine import SIDE, pictures_of
from medfocus.models.presets import preset

SIZE = 128  # of SAM2's input, for 1024


@pytest.mark.slow
def test_it_answers_and_compiled_as_it_does_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced by torch.compile; its code generator, which takes minutes, is left out."""
    traced, compile = [], torch.compile

    def trace(module: torch.nn.Module, dynamic: bool) -> Any:
        traced.append(type(module).__name__)
        return compile(module, dynamic=dynamic, backend="eager")

    pictures = pictures_of(2)
    eager = Upstream(preset("base"), "cpu", False, SIZE)
    masks, embeddings = eager.answer(pictures)
    assert [mask.shape for mask in masks] == [(3, SIDE, SIDE)] * 2
    assert embeddings.shape == (2, 512)
    assert not torch.allclose(embeddings[0], embeddings[1])
    assert eager.rate(pictures[:1], 1) > 0
    with monkeypatch.context() as patch:
        patch.setattr(torch, "compile", trace)
        compiled = Upstream(preset("base"), "cpu", True, SIZE)
    again = compiled.answer(pictures)[1]
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled.answer(pictures)
    assert traced == ["ImageEncoder", "VisionTransformer"]
    cosine = torch.nn.functional.cosine_similarity(again, embeddings)
    assert (cosine > 0.999).all()
