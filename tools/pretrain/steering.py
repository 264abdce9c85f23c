"""A step of pre-training in which CLIP is steered to the lesion, in any of the focus modes."""

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

# Of the steps. Large CLIPs bear paint and missing patches, having met a web of images; a small one
# has to meet them here. So that it stays a CLIP for plain images too, most steps are plain.
SHARES: Mapping[FocusMode, float] = {"none": 0.5, "overlay": 0.15, "soft": 0.2, "hard": 0.15}


class Steering:
    """Embeds views with the true masks of their lesions, through the engine's own graph.

    Args:
        clip: the image encoder, which goes on being trained.
    """

    def __init__(self, clip: FocusCLIP) -> None:
        nowhere = torch.ones(1, clip.embedding_size)
        self._graphs = {
            mode: ClassifierGraph(
                clip,
                Focus(mode=mode),
                nowhere,
                torch.tensor(1.0),
                uniform_strength(clip.layers),
                CLIP_MEAN,
                CLIP_STD,
            )
            for mode in get_args(FocusMode)
        }

    def draw_mode(self, random: np.random.Generator) -> FocusMode:
        """The mode of a step; in `soft` a strength as well, from none to full."""
        mode: FocusMode = random.choice([*SHARES], p=[*SHARES.values()])
        with torch.no_grad():
            self._graphs[mode].strength.fill_(random.uniform(0, 1))
        return mode

    def embed(self, image: Tensor, views: Sequence[View], mode: FocusMode) -> Tensor:
        """(B, 3, R, R) the views, normalised -> (B, E)."""
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
