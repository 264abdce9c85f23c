"""What the models need, and this machine's peak rates."""

from pathlib import Path

import pytest
import torch

from medfocus.benchmarks.bench.environment import processor_of
from medfocus.benchmarks.bench.parts.models import least_seconds
from medfocus.benchmarks.bench.timing import roofline as module
from medfocus.benchmarks.bench.timing.roofline import (
    KINDS,
    LARGE,
    ModelCost,
    Roofline,
    measure_roofline,
    model_costs,
)
from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.export.validate.images import phantoms
from medfocus.models.clip.architecture import build_vision_tower
from medfocus.models.clip.encoder import FocusCLIP
from medfocus.models.loading import TINY
from medfocus.models.sam2.segmenter import Segmenter


@pytest.mark.slow
def test_the_classifiers_products_are_those_of_a_vit(engine_directory: Path) -> None:
    """Counted on upstream's code, compared with a transformer's sum."""
    segmenter, classifier = model_costs(read_engine_directory(engine_directory), phantoms(1)[0])
    clip = FocusCLIP(build_vision_tower(TINY))
    tower = clip.visual
    width, tokens = tower.conv1.out_channels, 1 + clip.grid**2
    patch = tower.conv1.kernel_size[0]
    hidden = tower.transformer.resblocks[0].mlp.c_fc.out_features
    layer = tokens * width * (4 * width + 2 * hidden) + 2 * tokens**2 * width
    products = clip.layers * layer + clip.grid**2 * width * 3 * patch**2
    products += width * tower.output_dim
    assert classifier.flop == pytest.approx(2 * products, rel=1e-6)
    weights = sum(each.numel() for each in tower.parameters())
    assert classifier.parameters >= weights  # and the head's
    expected = sum(each.numel() for each in Segmenter(TINY).parameters())
    assert segmenter.parameters == pytest.approx(expected, rel=0.05)
    assert segmenter.flop > classifier.flop


def test_the_least_time_is_that_of_the_slower_rate() -> None:
    roofline = Roofline(1e9, {"fp32": 1e12})
    costs = [ModelCost(5e11, 25_000_000), ModelCost(1e11, 10_000_000)]
    assert roofline.least_seconds(costs[0], 4, "fp32") == 2
    assert roofline.least_seconds(ModelCost(1e11, 750_000_000), 1, "fp32") == 3
    assert roofline.least_seconds(costs[0], 4, "int8") is None
    assert least_seconds(roofline, costs, 2, "fp32") == pytest.approx(1 + 0.2)
    assert least_seconds(roofline, costs[1:], 0, "fp32") == pytest.approx(0.04)
    assert least_seconds(roofline, costs, 2, "bf16") is None


def test_emulated_precisions_are_not_tried_at_large_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    speeds = {torch.float32: 10.0, torch.float16: 1.0, torch.bfloat16: 20.0, torch.int8: 0.5}
    asked = []

    def rate(dtype: torch.dtype, side: int) -> float:
        asked.append((dtype, side))
        return speeds[dtype]

    monkeypatch.setattr(module, "_rate", rate)
    found = measure_roofline("cpu").matrix_rates
    assert found == {"fp32": 10.0, "fp16": 10.0, "bf16": 20.0, "int8": 10.0}
    assert [dtype for dtype, side in asked if side == LARGE] == [torch.float32, torch.bfloat16]


@pytest.mark.slow
def test_no_precision_is_slower_than_float32() -> None:
    found = measure_roofline("cpu")
    assert found.matrix_rates.keys() == KINDS.keys()
    assert min(found.matrix_rates.values()) == found.matrix_rates["fp32"] > 1e9
    assert found.bandwidth > 1e8


def test_a_processor_is_named_with_its_instructions() -> None:
    listing = (
        "processor\t: 0\nmodel name\t: Some Processor\nflags\t\t: fpu avx2 {}\n\nprocessor\t: 1"
    )
    assert processor_of(listing.format("fma")) == "Some Processor (avx2)"
    newer = processor_of(listing.format("amx_bf16 avx512f avx512_bf16"))
    assert newer == "Some Processor (avx2 avx512f avx512_bf16 amx_bf16)"
    assert processor_of("model name\t: Another\n") == "Another"
