"""Resizing for SAM2 on the device: our kernel, and PyTorch's antialiased interpolation."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medfocus.benchmarks.baselines.attention import (
    CHECKED_IMAGES,
    OURS,
    Comparison,
    KernelImplementation,
    Run,
    ran,
)
from medfocus.engine.backends.torch.device_images import levels_of
from medfocus.engine.backends.torch.resize import Taps, passes, segmenter_frame
from medfocus.engine.preprocess.resize import normalise, segmenter_pixels
from medfocus.kernels.resize import resize


def resizing(batch: int, height: int, width: int, size: int, device: str) -> Comparison:
    """resize and normalise; answers are (B, 3, S, S). Images of one size, as the other needs."""
    # Imported here: without upstream's packages, the other comparisons still run.
    from medfocus.models.presets import SAM2_MEAN, SAM2_STD

    images = np.random.default_rng(size).integers(0, 256, (batch, height, width, 3), np.uint8)
    pixels, frame = torch.from_numpy(images).to(device), segmenter_frame(height, width, size)
    tables = Taps(np.zeros(frame.taps, np.int32))
    plan = torch.tensor(
        [
            passes(frame, row * 3 * height * width, row * frame.between, row * 3 * size**2, tables)
            for row in range(batch)
        ]
    )

    def ours() -> Run:
        out = torch.empty(batch, 3, size, size, device=device)
        between = torch.empty(batch * frame.between, dtype=torch.uint8, device=device)
        taps = torch.from_numpy(tables.numbers).to(device)
        levels, plan_there = levels_of(SAM2_MEAN, SAM2_STD).to(device), plan.to(device)

        def run() -> Tensor:
            resize(pixels.flatten(), taps, plan_there, plan, levels, between, out)
            return out

        return run

    def pytorch() -> Run:
        mean, std = (torch.tensor(x, device=device).view(3, 1, 1) for x in (SAM2_MEAN, SAM2_STD))

        def run() -> Tensor:
            shown = pixels.permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)
            resized = F.interpolate(shown, (size, size), mode="bilinear", antialias=True)
            return (resized - mean) / std

        return run

    def exact() -> Tensor:
        shown = np.stack([segmenter_pixels(image, size) for image in images[:CHECKED_IMAGES]])
        return torch.from_numpy(normalise(shown, SAM2_MEAN, SAM2_STD)).double().to(device)

    return Comparison(
        kernel="resize",
        shape={"B": batch, "H": height, "W": width, "S": size},
        dtype=torch.float32,
        flop=0.0,
        bytes=float(batch * 3 * (height * width + 4 * size**2)),
        exact=exact,
        implementations=[
            KernelImplementation(OURS, "uint8, packed", ours, path=ran("resize")),
            KernelImplementation("PyTorch", "uint8, stacked", pytorch),
        ],
    )
