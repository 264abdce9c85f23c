"""Pre-trains the tiny segmenter to return the lesion nearest to a prompt anywhere in the image."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medfocus.engine.preprocess.resize import normalise
from medfocus.models.loading import TINY
from medfocus.models.presets import SAM2_MEAN, SAM2_STD, ZERO_SHOT
from medfocus.models.sam2.segmenter import Segmenter
from medfocus.models.sam2.selection import select_focus
from medfocus.settings import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, FOREGROUND, Selection
from tools.pretrain.pool import HELD_OUT_SEEDS, TRAINING_SEEDS, Sample, draw_pool
from tools.pretrain.schedule import Training

PROMPTS = 2  # per image and step, since the image encoder takes most of the time
LOSS_SIZE = 128  # pixels; masks are compared at half the image's resolution
BOX_SHARE = 0.3  # of the steps use box prompts, the others points


def train_segmenter(
    out: Path, steps: int, batch: int, pool_size: int, seed: int, measure_every: int
) -> None:
    """Train on `pool_size` phantoms; write `segmenter.safetensors` and its curve to `out`."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    model = Segmenter(TINY)
    settings = {"steps": steps, "batch": batch, "pool": pool_size, "seed": seed, "rate": 1e-3}
    pool = draw_pool(TRAINING_SEEDS, pool_size)
    held_out = draw_pool(HELD_OUT_SEEDS, 300)
    training = Training(model, steps, settings["rate"], out, "segmenter")
    for step in training:
        chosen = [pool[index] for index in random.integers(len(pool), size=batch)]
        images, masks = zip(*(_augment(sample, random) for sample in chosen), strict=True)
        points, labels, targets = _prompts(masks, random)
        model.train()
        logits, iou = model(_input(images), points, labels)
        loss = segmentation_loss(logits, iou, targets)
        training.update(loss)
        if (step + 1) % measure_every == 0 or step + 1 == steps:
            found, false_alarms = measure(training.averaged.module, held_out)
            training.record(
                settings,
                step=step + 1,
                loss=loss.item(),
                held_out_iou=found,
                held_out_false_alarms=false_alarms,
            )


def _input(images: Sequence[np.ndarray]) -> Tensor:
    """(S, S, 3) uint8 images -> (B, 3, S, S) float32 as SAM2 expects."""
    return torch.from_numpy(normalise(np.stack(images), SAM2_MEAN, SAM2_STD))


def _augment(sample: Sample, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Randomly mirror, shift by up to a tenth and change the intensities of a sample."""
    image, masks = sample.image, sample.masks
    if random.random() < 0.5:
        image, masks = image[:, ::-1], masks[:, :, ::-1]
    reach = image.shape[0] // 10
    shift = tuple(random.integers(-reach, reach + 1, size=2))
    image = np.roll(image, shift, (0, 1))
    masks = np.roll(masks, shift, (1, 2))
    gain, offset, gamma = (
        random.uniform(0.7, 1.2),
        random.uniform(-25, 25),
        random.uniform(0.7, 1.4),
    )
    scaled = 255 * (image / 255) ** gamma * gain + offset
    return np.clip(scaled, 0, 255).astype(np.uint8), masks


def _prompts(
    masks: tuple[np.ndarray, ...], random: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Points (B, P, n, 2), labels (B, P, n) and masks (B, P, H, W): all boxes or all points."""
    size = masks[0].shape[-1]
    boxes = random.random() < BOX_SHARE
    points = np.zeros((len(masks), PROMPTS, 2 if boxes else 1, 2), np.float32)
    targets = np.zeros((len(masks), PROMPTS, size, size), np.float32)
    for row, lesions in enumerate(masks):
        for prompt in range(PROMPTS):
            inside = len(lesions) and (boxes or prompt == 0)
            if inside:
                chosen = lesions[random.integers(len(lesions))]
                corners = _box(chosen, random) if boxes else _point_in(chosen, random)[None]
            else:
                corners = random.uniform(0, size, (points.shape[2], 2))
                corners.sort(0)  # top left before bottom right
                chosen = nearest(lesions, corners.mean(0))
            points[row, prompt], targets[row, prompt] = corners, chosen
    kinds = [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT] if boxes else [FOREGROUND]
    labels = torch.tensor(kinds, dtype=torch.int32).expand(*points.shape[:3])
    return torch.from_numpy(points), labels, torch.from_numpy(targets)


def nearest(lesions: np.ndarray, point: np.ndarray) -> np.ndarray:
    """The lesion mask whose centre is nearest to (x, y); an empty mask without lesions."""
    if not len(lesions):
        return np.zeros(lesions.shape[1:], bool)
    centres = [np.argwhere(lesion).mean(0)[::-1] for lesion in lesions]
    distances = [np.linalg.norm(centre - point) for centre in centres]
    closest: np.ndarray = lesions[int(np.argmin(distances))]
    return closest


def _point_in(mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    pixels: np.ndarray = np.argwhere(mask)[:, ::-1]
    point: np.ndarray = pixels[random.integers(len(pixels))]
    return point.astype(np.float32)


def _box(mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The mask's bounding box as two corners, each moved outwards by up to a tenth of the side."""
    pixels = np.argwhere(mask)[:, ::-1]
    low, high = pixels.min(0), pixels.max(0) + 1
    slack = 0.1 * (high - low)
    return np.stack([low - random.uniform(0, slack), high + random.uniform(0, slack)])


def segmentation_loss(logits: Tensor, iou: Tensor, targets: Tensor) -> Tensor:
    """Dice and cross-entropy loss of the best of K masks, plus the squared IoU prediction error.

    As in SAM, mainly the best mask is trained, so that the K masks can differ; a tenth of the mean
    loss keeps the others usable.

    Args:
        logits: (B, P, K, h, w); iou: (B, P, K); targets: (B, P, H, W) in {0, 1}.
    """
    size = (LOSS_SIZE, LOSS_SIZE)
    masks = F.interpolate(logits.flatten(0, 1), size, mode="bilinear")  # (B·P, K, y, x)
    goal = F.adaptive_avg_pool2d(targets.flatten(0, 1), size)[:, None].expand_as(masks)
    entropy = F.binary_cross_entropy_with_logits(masks, goal, reduction="none").mean((2, 3))
    probability = masks.sigmoid()
    overlap = 2 * (probability * goal).sum((2, 3)) + 1
    dice = 1 - overlap / (probability.sum((2, 3)) + goal.sum((2, 3)) + 1)
    each = dice + 5 * entropy
    hard, true = masks.detach() > 0, goal > 0.5
    union = (hard | true).sum((2, 3))
    actual = torch.where(union > 0, (hard & true).sum((2, 3)) / union.clamp(min=1), 0.0)
    quality = F.mse_loss(iou.flatten(0, 1), actual)
    return each.amin(1).mean() + 0.1 * each.mean() + quality


@torch.inference_mode()
def measure(model: torch.nn.Module, samples: list[Sample]) -> tuple[float, float]:
    """Mean IoU of focus mask and nearest lesion, and the share of healthy images with a mask.

    Uses the zero-shot prompts and the default selection, so nothing depends on the true masks.
    """
    model.eval()
    ious, alarms = [], []
    size = samples[0].image.shape[0]
    grid = torch.tensor(ZERO_SHOT.points)[None] * size  # (1, P, 1, 2)
    for start in range(0, len(samples), 20):
        chunk = samples[start : start + 20]
        points = grid.expand(len(chunk), -1, -1, -1)
        labels = torch.full(points.shape[:3], FOREGROUND, dtype=torch.int32)
        logits, iou = model(_input([sample.image for sample in chunk]), points, labels)
        focus, score = select_focus(logits, iou, Selection())
        found = (F.interpolate(focus[:, None], (size, size), mode="bilinear")[:, 0] > 0).numpy()
        for sample, mask, value in zip(chunk, found, score.tolist(), strict=True):
            if not len(sample.masks):
                alarms.append(float(value > 0))
            elif not mask.any():
                ious.append(0.0)
            else:
                lesion = nearest(sample.masks, np.argwhere(mask).mean(0)[::-1])
                ious.append(float((mask & lesion).sum() / (mask | lesion).sum()))
    return float(np.mean(ious)), float(np.mean(alarms)) if alarms else math.nan
