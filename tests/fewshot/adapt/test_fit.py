"""Every adaptation: reproducible, changes only what it may, and equals the engine's answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F

from medfocus.engine import Engine
from medfocus.errors import InputError
from medfocus.export.config import ExportConfig
from medfocus.export.engine_directory import ModelBundle, build
from medfocus.export.onnx.graphs import segmenter_onnx
from medfocus.export.validate import graph_writer
from medfocus.fewshot.adapt.fit import Adaptation, Task, fit_head
from medfocus.fewshot.adapt.folds import logits_of
from medfocus.fewshot.adapt.strength import STRENGTHS
from medfocus.fewshot.adapt.training import objective
from medfocus.fewshot.backbones import Backbones
from medfocus.fewshot.data.dataset import Dataset
from medfocus.fewshot.examples import Examples, embed
from medfocus.models.clip.adapter import apply_adapter
from medfocus.models.clip.encoder import FocusCLIP
from medfocus.models.graphs import SegmenterGraph
from medfocus.models.head import Head
from medfocus.models.loading import load_clip
from medfocus.settings import Focus, FocusMode, Selection
from tests.engine.io.read import read_images
from tests.errors import refuses
from tests.fewshot.conftest import part

STEPS = 2
LEARNED: tuple[Adaptation, ...] = ("probe", "tip", "vpt", "lora", "full")


def task(brain: Dataset, mode: FocusMode = "soft") -> Task:
    return Task(brain.classes, brain.prompts, Focus(mode=mode))


def fit(
    adaptation: Adaptation,
    brain: Dataset,
    examples: Examples,
    backbones: Backbones,
    mode: FocusMode = "soft",
    seed: int = 0,
) -> Head:
    seen = part(brain, examples, "train")
    return fit_head(adaptation, task(brain, mode), seen, backbones, seed, STEPS)


def state_of(backbones: Backbones) -> dict[str, torch.Tensor]:
    model = backbones.loaded.model
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("adaptation", LEARNED)
def test_the_same_seed_gives_the_same_bits(
    adaptation: Adaptation, brain: Dataset, examples: Examples, backbones: Backbones, tmp_path: Path
) -> None:
    """And fitting does not modify the frozen models."""
    before = state_of(backbones)
    for name in ("first", "second"):
        fit(adaptation, brain, examples, backbones).save(tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    after = state_of(backbones)
    assert all(torch.equal(before[name], after[name]) for name in before)
    head = Head.read(tmp_path / "first")
    assert head.adaptation == adaptation
    assert head.trained_on == part(brain, examples, "train").content
    assert 0.05 <= head.temperature <= 20
    if adaptation in ("vpt", "lora"):
        other = fit(adaptation, brain, examples, backbones, seed=1)
        assert not torch.equal(other.class_embeddings, head.class_embeddings)


@pytest.mark.parametrize(
    ("adaptation", "mode"), [("vpt", "soft"), ("lora", "hard"), ("full", "overlay")]
)
def test_training_lowers_the_objective(
    adaptation: Adaptation,
    mode: FocusMode,
    brain: Dataset,
    examples: Examples,
    backbones: Backbones,
) -> None:
    seen = part(brain, examples, "train")
    losses = []
    for steps in (1, 8):
        head = fit_head(adaptation, task(brain, mode), seen, backbones, 0, steps)
        features, _ = embed(seen, backbones, backbones.classifier(head, Focus(mode=mode)))
        losses.append(float(objective(head.temperature * logits_of(head, features), seen.labels)))
    assert losses[1] < losses[0]


def test_strengths_are_learned_where_they_matter(
    brain: Dataset, examples: Examples, backbones: Backbones
) -> None:
    start = backbones.zero_shot_head(brain.classes, brain.prompts, Focus()).strength
    chosen = fit("probe", brain, examples, backbones).strength
    assert (chosen == chosen[0]).all()
    assert float(chosen[0]) in {float(start[0]), *STRENGTHS}
    soft = fit("lora", brain, examples, backbones)
    assert (soft.strength != chosen).all()
    assert (soft.strength >= 0).all()
    assert torch.equal(fit("lora", brain, examples, backbones, "hard").strength, start)


def test_lora_changes_only_the_attention(
    brain: Dataset, examples: Examples, backbones: Backbones
) -> None:
    head = fit("lora", brain, examples, backbones)
    layers = range(backbones.clip.layers)
    assert {name.rpartition(".")[0] for name in head.adapter} == {
        f"visual.transformer.resblocks.{layer}.attn.{matrix}"
        for layer in layers
        for matrix in ("in_proj_weight", "out_proj.weight")
    }
    assert all(min(factor.shape) == 4 for factor in head.adapter.values())
    assert all(factor.any() for factor in head.adapter.values())


@pytest.fixture(scope="module")
def segmenter_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Traces the segmenter once, since no adaptation changes it."""
    file = tmp_path_factory.mktemp("graphs") / "segmenter.onnx"

    def traced(graph: SegmenterGraph) -> ir.Model:
        if not file.exists():
            ir.save(segmenter_onnx(graph), file)
        return ir.load(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_writer, "segmenter_onnx", traced)
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("segmenter_once")
@pytest.mark.parametrize(
    "adaptation",
    [
        "probe",
        "lora",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("tip", "vpt", "full")),
    ],
)
def test_the_engine_answers_as_it_was_evaluated(
    adaptation: Adaptation, brain: Dataset, examples: Examples, backbones: Backbones, tmp_path: Path
) -> None:
    """fit → export → classify the image files, in PyTorch and ONNX Runtime, within 1e-4."""
    fit(adaptation, brain, examples, backbones).save(tmp_path / "head.safetensors")
    head = Head.read(tmp_path / "head.safetensors")
    tested = part(brain, examples, "test")
    features, focused = embed(tested, backbones, backbones.classifier(head, Focus()))
    expected = logits_of(head, features).softmax(1).numpy()

    loaded = load_clip(head.clip)
    clip = FocusCLIP(loaded.model.visual)
    apply_adapter(clip, head.adapter)
    bundle = ModelBundle(
        preset=backbones.preset,
        clip=clip,
        clip_sha256=loaded.sha256,
        segmenter=backbones.segmenter.segmenter,
        segmenter_sha256=backbones.segmenter_sha256,
        head=head,
        focus=Focus(),
        selection=Selection(),
    )
    files = [item.path for item in brain.items if item.part == "test"]
    pictures = [image for file in files[:8] for image in read_images(file)]
    build(
        tmp_path / "engine",
        bundle,
        ExportConfig(targets=("torch", "onnx"), buckets=(1, 8)),
        pictures,
    )
    for backend in ("torch", "onnxruntime"):
        engine = Engine.load(tmp_path / "engine", backend=backend, device="cpu")
        predictions = engine.classify(files, strict=True)
        engine.close()
        answered = np.array([[*prediction.probabilities.values()] for prediction in predictions])
        np.testing.assert_allclose(answered, expected, atol=1e-4)
        assert [prediction.focused for prediction in predictions] == focused.tolist()
    plain = backbones.zero_shot_head(brain.classes, brain.prompts, Focus())
    zero_shot, _ = embed(tested, backbones, backbones.classifier(plain, Focus()))
    assert np.abs(logits_of(plain, zero_shot).softmax(1).numpy() - expected).max() > 0.02


def test_the_objective_by_hand() -> None:
    """Half cross-entropy, half the mean of image-to-text and text-to-image contrast."""
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels = torch.tensor([0, 2, 2, 0, 2, 0])  # classes 1 and 3 have no image
    logs = logits.log_softmax(1)
    entropy = -sum(float(logs[i, k]) for i, k in enumerate(labels)) / 6
    present = logits[:, [0, 2]]
    to_text = -sum(float(present[i].log_softmax(0)[k // 2]) for i, k in enumerate(labels)) / 6
    to_image = 0.0
    for column in range(2):
        over_images = present[:, column].log_softmax(0)
        own = [i for i, k in enumerate(labels) if k // 2 == column]
        to_image -= sum(float(over_images[i]) for i in own) / len(own) / 2
    expected = 0.5 * (to_text + to_image) / 2 + 0.5 * entropy
    assert float(objective(logits, labels)) == pytest.approx(expected, rel=1e-12)


def test_what_cannot_be_fitted(brain: Dataset, examples: Examples, backbones: Backbones) -> None:
    seen = part(brain, examples, "train")
    with refuses(InputError, "input.unknown_adaptation", "'prompt'") as caught:
        fit_head("prompt", task(brain), seen, backbones)  # type: ignore[arg-type]
    assert all(name in caught.value.hint for name in get_args(Adaptation))
    without = seen.take((seen.labels != 2).nonzero()[:, 0])
    with refuses(InputError, "dataset.missing_class", brain.classes[2]):
        fit_head("probe", task(brain), without, backbones)
    assert get_args(Adaptation)[1:] == LEARNED


def test_one_image_per_class(brain: Dataset, examples: Examples, backbones: Backbones) -> None:
    """No fold can be held out, so no temperature is fitted."""
    seen = part(brain, examples, "train")
    first = [int((seen.labels == label).nonzero()[0, 0]) for label in range(4)]
    head = fit_head("probe", task(brain), seen.take(torch.tensor(first)), backbones)
    assert head.temperature == 1
    assert torch.equal(head.logit_scale, backbones.loaded.logit_scale)
    assert F.normalize(head.class_embeddings, dim=-1).isfinite().all()
