"""transformers' own models with the engine's weights, compared with upstream's."""

from pathlib import Path

import numpy as np
import pytest

from medfocus.benchmarks.baselines import transformers as module
from medfocus.benchmarks.baselines.implementations import baseline_implementations
from medfocus.benchmarks.baselines.transformers import (
    clip_weights,
    sam2_weights,
    transformers_models,
)
from medfocus.benchmarks.bench.agreement import worst_cosine
from medfocus.engine.artifact.directory import load_tensors, read_engine_directory
from medfocus.engine.artifact.layout import SEGMENTER_WEIGHTS
from medfocus.errors import InputError, WeightsError
from medfocus.export.validate.images import phantoms
from medfocus.models.clip.architecture import build_clip

IMAGES = phantoms(3)


@pytest.mark.slow
def test_it_answers_as_upstream_does(engine_directory: Path) -> None:
    directory = read_engine_directory(engine_directory)
    upstream, ours = (
        each.load()
        for each in baseline_implementations(directory, ["upstream", "transformers"], "cpu")
    )
    expected = upstream.segment(IMAGES)
    assert (expected > 0).any()
    assert np.abs(ours.segment(IMAGES) - expected).max() < 1e-4
    embedding = upstream.classify(IMAGES, expected)
    assert worst_cosine(ours.classify(IMAGES, expected), embedding) > 0.999999
    half = transformers_models(directory, "cpu", "bf16").classify(IMAGES, expected)
    assert 0.99 < worst_cosine(half, embedding) < 0.999999


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-L-14-336-quickgelu"])
def test_published_clips_fit(name: str) -> None:
    """Every tensor has its place, by name and shape."""
    import torch
    from transformers import CLIPVisionModelWithProjection

    with torch.device("meta"):
        theirs = CLIPVisionModelWithProjection(module._clip_configuration(name)).state_dict()
        upstream = build_clip(name).state_dict()
    arrays = {key: np.empty(each.shape, np.float32) for key, each in upstream.items()}
    found = {key: each.shape for key, each in clip_weights(arrays).items()}
    assert found == {key: each.shape for key, each in theirs.items()}
    assert module._clip_configuration(name).hidden_act == (
        "quick_gelu" if "quickgelu" in name else "gelu"
    )


def test_what_has_no_place_is_an_error(engine_directory: Path) -> None:
    from transformers import Sam2Model

    tensors = load_tensors(read_engine_directory(engine_directory), SEGMENTER_WEIGHTS)
    model = Sam2Model(module._sam2_configuration("medfocus_tiny", 256))
    with pytest.raises(WeightsError, match=r"surplus"):
        module._fill(model, sam2_weights({**tensors, "surplus": np.ones(1, np.float32)}), "a file")
    missing = {name: each for name, each in tensors.items() if name != "no_mem_embed"}
    with pytest.raises(WeightsError, match="no_memory_embedding"):
        module._fill(model, sam2_weights(missing), "a file")
    with pytest.raises(InputError, match="BiomedCLIP"):
        module._clip_configuration("BiomedCLIP-PubMedBERT_256-vit_base_patch16_224")
