"""Pre-training steps in which CLIP is steered to the lesion, in any of the focus modes."""

from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from medfocus.fewshot.true_focus import logits_of_lesions
from medfocus.models.clip.encoder import FocusCLIP
from medfocus.models.graphs import ClassifierGraph
from medfocus.models.head import uniform_strength
from medfocus.models.presets import CLIP_MEAN, CLIP_STD
from medfocus.settings import Focus, FocusMode
from tools.pretrain.views import View

# Shares of the steps. Large CLIPs tolerate overlays and missing patches because of their web-scale
# training data; a small one has to see them here. Half of the steps are plain, so that it also
# works on plain images.
SHARES: Mapping[FocusMode, float] = {"none": 0.5, "overlay": 0.15, "soft": 0.2, "hard": 0.15}


class Steering:
    """Embeds views, steered by the true lesion masks, through the engine's own graph.

    Args:
        clip: the image encoder that is trained.
    """

    def __init__(self, clip: FocusCLIP) -> None:
        class_embeddings = torch.ones(1, clip.embedding_size)  # unused
        self._graphs = {
            mode: ClassifierGraph(
                clip,
                Focus(mode=mode),
                class_embeddings,
                torch.tensor(1.0),
                uniform_strength(clip.layers),
                CLIP_MEAN,
                CLIP_STD,
            )
            for mode in get_args(FocusMode)
        }

    def draw_mode(self, random: np.random.Generator) -> FocusMode:
        """Draw the mode of a step, and a focus strength in [0, 1], which only `soft` uses."""
        mode: FocusMode = random.choice([*SHARES], p=[*SHARES.values()])
        with torch.no_grad():
            self._graphs[mode].strength.fill_(random.uniform(0, 1))
        return mode

    def embed(self, image: Tensor, views: Sequence[View], mode: FocusMode) -> Tensor:
        """Embed the views: normalised images (B, 3, R, R) -> (B, E)."""
        graph = self._graphs[mode]
        lesions = torch.from_numpy(np.stack([view.lesion for view in views]))
        pixels = lesions.shape[-1]
        size = pixels // graph.cells
        # A cell is the mean of its pixels: (B, cells, R).
        cells = torch.eye(graph.cells).repeat_interleave(size, 1) / size
        pooling = cells.expand(len(views), -1, -1)
        output = graph(image, logits_of_lesions(lesions), pooling, pooling)
        embedding: Tensor = output.embedding
        return embedding
