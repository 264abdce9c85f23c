"""Weights stored in half give bitwise the outputs that autocast gives with float32 weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from sam2.modeling.sam2_utils import LayerNorm2d
from torch import nn

from medfocus.engine.artifact.directory import EngineDirectory, read_engine_directory
from medfocus.engine.backends.torch import backend as torch_backend
from medfocus.engine.backends.torch.backend import TorchBackend
from medfocus.engine.backends.torch.half_weights import store_half
from medfocus.export.engine_directory import build
from medfocus.models.clip.encoder import FocusCLIP
from medfocus.models.sam2.segmenter import Segmenter
from tests.conftest import random_bundle
from tests.engine.backends.test_tensorrt import classifier_inputs, segmenter_inputs


def in_half(path: Path, dtype: Literal["fp16", "bf16"], *float32_blocks: str) -> EngineDirectory:
    directory = read_engine_directory(path)
    manifest = directory.manifest
    precision = replace(manifest.precision, dtype=dtype, float32_blocks=float32_blocks)
    return replace(
        directory, manifest=replace(manifest, backends={"torch": dtype}, precision=precision)
    )


def halves(module: nn.Module) -> set[str]:
    return {name for name, value in module.named_parameters() if value.dtype != torch.float32}


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_outputs_are_bitwise_equal_to_those_of_float32_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, dtype: Literal["fp16", "bf16"]
) -> None:
    build(tmp_path / "engine", random_bundle(mode))  # type: ignore[arg-type]
    directory = in_half(tmp_path / "engine", dtype)
    ours = TorchBackend(directory, "cpu")
    monkeypatch.setattr(torch_backend, "store_half", lambda *_: None)
    plain = TorchBackend(directory, "cpu")
    for prompts, points in ((9, 1), (1, 2)):
        given = segmenter_inputs(3, prompts, points)
        for found, expected in zip(ours.segment(**given), plain.segment(**given), strict=True):
            np.testing.assert_array_equal(found, expected)
    shown = classifier_inputs(3)
    for output, reference in zip(ours.classify(**shown), plain.classify(**shown), strict=True):
        np.testing.assert_array_equal(output, reference)


def test_only_weights_of_matrix_products_are_stored_in_half(engine_directory: Path) -> None:
    backend = TorchBackend(in_half(engine_directory, "bf16"), "cpu")
    classifier, segmenter = halves(backend._classifier), halves(backend._segmenter)
    block = "clip.visual.transformer.resblocks.0"
    assert {
        "clip.visual.conv1.weight",
        *(f"{block}.attn.in_proj_{part}" for part in ("weight", "bias")),
        *(f"{block}.attn.out_proj.{part}" for part in ("weight", "bias")),
        *(
            f"{block}.mlp.{layer}.{part}"
            for layer in ("c_fc", "c_proj")
            for part in ("weight", "bias")
        ),
    } <= classifier
    decoder = "segmenter.sam_mask_decoder"
    assert {
        "segmenter.image_encoder.trunk.patch_embed.proj.weight",
        "segmenter.image_encoder.trunk.blocks.0.attn.qkv.weight",
        f"{decoder}.output_upscaling.0.weight",
        f"{decoder}.transformer.layers.0.cross_attn_image_to_token.q_proj.weight",
    } <= segmenter
    for graph in (backend._classifier, backend._segmenter):
        for name, module in graph.named_modules():
            if isinstance(module, (nn.LayerNorm, LayerNorm2d, nn.Embedding)):
                assert not halves(module), name
    named = {name for name in classifier | segmenter if "embed" in name or "strength" in name}
    assert all("patch_embed.proj" in name for name in named)
    assert not [name for name in segmenter if "conv_s0" in name or "conv_s1" in name]


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_the_sums_of_all_layers_are_float32(
    engine_directory: Path, dtype: Literal["fp16", "bf16"]
) -> None:
    backend = TorchBackend(in_half(engine_directory, dtype), "cpu")
    trunk = backend._segmenter.segmenter.image_encoder.trunk
    blocks, seen = [*trunk.blocks, *backend._classifier.clip.blocks], []
    for block in blocks:
        for norm in (block.norm1, block.norm2):
            norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    backend.segment(**segmenter_inputs(2, 1, 1))
    backend.classify(**classifier_inputs(2))
    assert seen == 2 * len(blocks) * [torch.float32]


@pytest.mark.parametrize("graph", ["segmenter", "classifier"])
def test_a_graph_with_a_float32_block_stays_in_float32(engine_directory: Path, graph: str) -> None:
    backend = TorchBackend(in_half(engine_directory, "bf16", f"{graph}: any"), "cpu")
    found = {"segmenter": backend._segmenter, "classifier": backend._classifier}
    assert not halves(found.pop(graph))
    assert all(halves(other) for other in found.values())


def timm_clip() -> FocusCLIP:
    from open_clip.timm_model import TimmModel

    torch.manual_seed(0)
    tower = TimmModel(
        "vit_tiny_patch16_224",
        embed_dim=64,
        image_size=64,
        pool="",
        proj="linear",
        pretrained=False,
    )
    return FocusCLIP(tower).eval()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_timms_towers_are_bitwise_equal_too(dtype: torch.dtype) -> None:
    image = torch.randn(2, 3, 224, 224)
    bias = torch.randn(12, 2, 197)
    rounded = timm_clip()
    store_half(rounded, dtype)
    assert "visual.trunk.blocks.0.attn.qkv.weight" in halves(rounded)
    embed: Callable[[FocusCLIP], torch.Tensor] = lambda clip: clip(image, bias)  # noqa: E731
    with torch.autocast("cpu", dtype, cache_enabled=False):
        assert torch.equal(embed(rounded), embed(timm_clip()))


@torch.inference_mode()
def test_the_pyramid_is_composed_from_float32_weights() -> None:
    """If they were rounded before the composition, they would be rounded twice."""
    torch.manual_seed(0)
    segmenter = Segmenter("medfocus_tiny").eval()
    expected = segmenter.pyramid()
    store_half(segmenter, torch.bfloat16)
    for (weight, bias), (before, bias_before) in zip(segmenter.pyramid(), expected, strict=True):
        assert torch.equal(weight.bfloat16(), before.bfloat16())
        assert torch.equal(bias.bfloat16(), bias_before.bfloat16())
