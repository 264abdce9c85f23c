"""One image on its way through the pipeline, and what the graphs say of it."""

import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from medfocus.engine.io.images import SourceImage
from medfocus.engine.runtime.graphs import Array
from medfocus.settings import Prompts


@dataclass(frozen=True, eq=False)
class GraphOutputs:
    """What the graphs say of one image; memory of its own.

    Attributes:
        probabilities: float32 (C,).
        focused: whether a region steered the classifier.
        score, focus_logits, patch_focus: of the focus mask: a number, float32 (h, w) and (g, g).
    """

    probabilities: Array
    focused: bool
    score: float
    focus_logits: Array
    patch_focus: Array


@dataclass(eq=False)
class ImageRequest:
    """An image on its way to an answer.

    Attributes:
        image: what was read.
        prompts: the manifest's, or the caller's own for this image.
        answer: where the answer or the error goes.
        submitted: when it came, on the clock of `time.perf_counter`.
        begun: whether it has been in a batch; it then cannot be cancelled.
    """

    image: SourceImage
    prompts: Prompts
    future: "Future[GraphOutputs]" = field(default_factory=Future)
    submitted: float = field(default_factory=time.perf_counter)
    begun: bool = False

    @property
    def prompts_shape(self) -> tuple[int, int]:
        """P prompts of n points; images of one batch share it.

        Prompts are not padded: a padding point takes part in SAM2's attention, and an image's
        answer must not depend on its neighbours' prompts.
        """
        return len(self.prompts.labels), len(self.prompts.labels[0])
