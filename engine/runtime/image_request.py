"""One image's request to the pipeline, and the outputs of the two graphs for it."""

import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

from medfocus.engine.io.images import SourceImage
from medfocus.engine.runtime.graphs import Array
from medfocus.engine.runtime.metrics import Span
from medfocus.settings import Prompts


class Kept(NamedTuple):
    """Which of an image's larger outputs are copied out of its batch, for its caller to hold.

    Attributes:
        masks: the focus mask and the patch focus.
        embedding: the image's embedding.
    """

    masks: bool = True
    embedding: bool = False


MASKS_ONLY = Kept()


@dataclass(frozen=True, eq=False)
class GraphOutputs:
    """The outputs of the two graphs for one image; copies, no views of a batch.

    Attributes:
        probabilities: float32 (C,).
        focused: whether a region steered the classifier.
        score: predicted IoU × stability of the focus mask, in [0, 1].
        focus_logits: float32 (h, w), the focus mask; None if it is not kept.
        patch_focus: float32 (g, g), the focus mask's mean over each patch; None if it is not kept.
        embedding: float32 (E,); None if it is not kept.
    """

    probabilities: Array
    focused: bool
    score: float
    focus_logits: Array | None
    patch_focus: Array | None
    embedding: Array | None = None


@dataclass(eq=False)
class ImageRequest:
    """An image submitted to the pipeline.

    Attributes:
        image: the decoded image.
        prompts: the manifest's, or the caller's own for this image.
        kept: which outputs the caller wants.
        future: receives the outputs or the error.
        submitted: when the request was made, on the clock of `time.perf_counter`.
        begun: whether it has been in a batch; it can then no longer be cancelled.
        settled: whether the future has its outputs or its error.
        spans: the work on it, complete once the future has its outputs.
    """

    image: SourceImage
    prompts: Prompts
    kept: Kept = MASKS_ONLY
    future: "Future[GraphOutputs]" = field(default_factory=Future)
    submitted: float = field(default_factory=time.perf_counter)
    begun: bool = False
    settled: bool = False
    spans: list[Span] = field(default_factory=list)

    @property
    def prompts_shape(self) -> tuple[int, int]:
        """(P, n): P prompts of n points; all images of a batch have the same.

        Prompts are not padded: a padding point takes part in SAM2's attention, and an image's
        prediction must not depend on its neighbours' prompts.
        """
        return len(self.prompts.labels), len(self.prompts.labels[0])
