"""What one would run without medfocus: SAM2ImagePredictor's batch call and open_clip, as they are.

With seeded random weights, one point an image, and neither a selection of masks nor a head: less
than the engine does.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from sam2.build_sam import build_sam2
from sam2.sam2_image_predictor import SAM2ImagePredictor

from medfocus.benchmarks.bench.random_weights import SAM2_CONFIGS
from medfocus.benchmarks.gpu.engine import SIDE, Picture
from medfocus.models.clip.architecture import build_clip
from medfocus.models.presets import Preset


class Upstream:
    """Both models of a preset on a device.

    Args:
        chosen: whose architectures are upstream's own.
        device: cuda or cpu.
        compiled: both image encoders go through torch.compile, for one batch size at a time (a
            size that may vary would be slower), and run under autocast in float16; else all is
            eager and float32.
        image_size: of SAM2's input; its own is 1024.
    """

    def __init__(self, chosen: Preset, device: str, compiled: bool, image_size: int = 1024) -> None:
        torch.manual_seed(0)
        self._device, self._half = device, compiled
        self._clip = build_clip(chosen.clip).eval().to(device)
        size = self._clip.visual.image_size
        self._transform: Any = open_clip.image_transform(size, is_train=False)
        sam2 = build_sam2(
            SAM2_CONFIGS[chosen.sam2],
            device=device,
            hydra_overrides_extra=[f"++model.image_size={image_size}"],
        )
        self._predictor = SAM2ImagePredictor(sam2)
        # Upstream hard-codes the feature sizes of a 1024² image.
        self._predictor._bb_feat_sizes = [(image_size // stride,) * 2 for stride in (4, 8, 16)]
        if compiled:
            # SAM2 keeps its position codes from the first image on, and that changes the code that
            # runs: compiled before, it would be compiled again within the time that is taken.
            self.answer([np.zeros((SIDE, SIDE, 3), np.uint8)])
            sam2.image_encoder = torch.compile(sam2.image_encoder, dynamic=False)
            self._clip.visual = torch.compile(self._clip.visual, dynamic=False)

    def rate(self, pictures: Sequence[Picture], batches: int) -> float:
        """Images a second over batches of all `pictures`, masks and embeddings on the host."""
        begun = time.perf_counter()
        for _ in range(batches):
            self.answer(pictures)
        return batches * len(pictures) / (time.perf_counter() - begun)

    @torch.inference_mode()
    def answer(self, pictures: Sequence[Picture]) -> tuple[list[Any], torch.Tensor]:
        """Masks an image (3, SIDE, SIDE), and embeddings (B, E)."""
        points = [np.array([[SIDE / 2, SIDE / 2]], np.float32)] * len(pictures)
        labels = [np.ones(1, np.int32)] * len(pictures)
        with torch.autocast(self._device, torch.float16, enabled=self._half):
            self._predictor.set_image_batch(list(pictures))
            masks, _, _ = self._predictor.predict_batch(points, labels)
            seen = torch.stack([self._transform(Image.fromarray(pixels)) for pixels in pictures])
            embeddings = self._clip.encode_image(seen.to(self._device)).float().cpu()
        return masks, embeddings
