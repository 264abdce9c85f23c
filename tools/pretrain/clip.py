"""Pre-trains the tiny CLIP on captioned close-ups and whole slices of phantoms."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from PIL import Image
from torch import Tensor

from medfocus.engine.preprocess.resize import normalise
from medfocus.models.clip.architecture import build_clip
from medfocus.models.clip.encoder import FocusCLIP
from medfocus.models.clip.text import Tokenizer, tokenizer_for
from medfocus.models.loading import TINY
from medfocus.models.presets import CLIP_MEAN, CLIP_STD
from medfocus.phantoms import INTERIORS, MARGINS, ORGANS, PRETRAINING_KINDS, caption
from tools.pretrain.pool import HELD_OUT_SEEDS, TRAINING_SEEDS, Sample, draw_pool
from tools.pretrain.schedule import Training
from tools.pretrain.steering import SHARES, Steering
from tools.pretrain.views import draw_view

TEMPLATES = ("This is a photo of {}", "a photo of {}", "an image that shows {}", "{}")
# Shares of whole slices among the views; the others are close-ups. Steering hides the rest of a
# slice, which makes it a close-up by itself.
PLAIN_WHOLE_SHARE, STEERED_WHOLE_SHARE = 0.3, 0.7


def captions() -> list[list[str]]:
    """Caption groups: full, margin, interior, organ. An image matches one caption of each."""
    whole = [caption(kind, organ) for organ in ORGANS for kind in (*PRETRAINING_KINDS, None)]
    return [
        whole,
        ["a healthy slice", *(f"a {margin} lesion" for margin in MARGINS)],
        ["a healthy slice", *(f"a {interior} lesion" for interior in INTERIORS)],
        [caption(None, organ).removesuffix(" with no lesion") for organ in ORGANS],
    ]


def answers(sample: Sample) -> list[int]:
    """The index of a phantom's caption in each group of `captions()`."""
    kinds = (*PRETRAINING_KINDS, None)
    organ = ORGANS.index(sample.organ)
    whole = organ * len(kinds) + kinds.index(sample.kind)
    if sample.kind is None:
        return [whole, 0, 0, organ]
    margin, interior = sample.kind.margin, sample.kind.interior
    return [whole, 1 + MARGINS.index(margin), 1 + INTERIORS.index(interior), organ]


def train_clip(
    out: Path, steps: int, batch: int, pool_size: int, seed: int, measure_every: int
) -> None:
    """Train on `pool_size` phantoms; write `clip.safetensors` and its curve to `out`."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    model, tokenize = build_clip(TINY), tokenizer_for(TINY)
    steering = Steering(FocusCLIP(model.visual))
    settings = {
        "steps": steps,
        "batch": batch,
        "pool": pool_size,
        "seed": seed,
        "rate": 1e-3,
        "focus": dict(SHARES),
    }
    pool = draw_pool(TRAINING_SEEDS, pool_size)
    held_out = draw_pool(HELD_OUT_SEEDS, 300)
    training = Training(model, steps, 1e-3, out, "clip")
    groups = captions()
    for step in training:
        chosen = [pool[index] for index in random.integers(len(pool), size=batch)]
        mode = steering.draw_mode(random)
        whole = PLAIN_WHOLE_SHARE if mode == "none" else STEERED_WHOLE_SHARE
        views = [draw_view(sample, random, whole) for sample in chosen]
        images = _input([view.image for view in views])
        labels = torch.tensor([answers(sample) for sample in chosen])
        model.train()
        template = TEMPLATES[random.integers(len(TEMPLATES))]
        tokens = [tokenize([template.format(text) for text in group]) for group in groups]
        embedding = steering.embed(images, views, mode)
        loss = contrastive_loss(model, embedding, labels, tokens)
        training.update(loss)
        if (step + 1) % measure_every == 0 or step + 1 == steps:
            whole, margin, interior, organ = measure(training.averaged.module, tokenize, held_out)
            training.record(
                settings,
                step=step + 1,
                loss=loss.item(),
                held_out_caption=whole,
                held_out_margin=margin,
                held_out_interior=interior,
                held_out_organ=organ,
            )


def _input(images: Sequence[np.ndarray]) -> Tensor:
    """(R, R, 3) uint8 images -> (B, 3, R, R) float32 as CLIP expects."""
    return torch.from_numpy(normalise(np.stack(images), CLIP_MEAN, CLIP_STD))


def contrastive_loss(
    model: CLIP, embedding: Tensor, labels: Tensor, groups: list[Tensor]
) -> Tensor:
    """Cross-entropy of the images over all captions of each group, averaged over the groups.

    CLIP contrasts a batch with its own captions. Here captions are few and repeat within a batch,
    so each image is contrasted with all distinct captions, which avoids false negatives.

    Args:
        model: an open_clip CLIP.
        embedding: (B, E) of the images.
        labels: (B, groups), the index of the correct caption in each group.
        groups: the tokens (captions, T) of each group.
    """
    features = F.normalize(embedding, dim=-1)
    scale = model.logit_scale.exp().clamp(max=100)
    losses = []
    for group, target in zip(groups, labels.unbind(1), strict=True):
        texts = F.normalize(model.encode_text(group), dim=-1)
        losses.append(F.cross_entropy(scale * features @ texts.T, target))
    return torch.stack(losses).mean()


@torch.inference_mode()
def measure(model: CLIP, tokenize: Tokenizer, samples: list[Sample]) -> list[float]:
    """Zero-shot accuracy of plain CLIP on whole slices, for each group of captions."""
    model.eval()
    encode = FocusCLIP(model.visual)
    size = encode.image_size
    views = [
        np.asarray(Image.fromarray(s.image).resize((size, size), Image.Resampling.BICUBIC))
        for s in samples
    ]
    features = torch.cat([encode(_input(views[i : i + 50])) for i in range(0, len(views), 50)])
    labels = torch.tensor([answers(sample) for sample in samples])
    accuracies = []
    for group, target in zip(captions(), labels.unbind(1), strict=True):
        tokens = tokenize([TEMPLATES[0].format(text) for text in group])
        texts = F.normalize(model.encode_text(tokens), dim=-1)
        accuracies.append((((features @ texts.T).argmax(1)) == target).float().mean().item())
    return accuracies
