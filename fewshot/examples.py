"""Labelled images as the two graphs take them, read and segmented once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from medfocus.engine.images import SourceImage
from medfocus.engine.prepare import MASK_STRIDE, classifier_view, in_frame, pooling
from medfocus.engine.preprocess import normalise, segmenter_pixels
from medfocus.errors import ImageError
from medfocus.fewshot.backbones import Backbones
from medfocus.fewshot.data.dataset import Item
from medfocus.fewshot.data.images import read_item, unreadable
from medfocus.fewshot.focus_store import FocusStore
from medfocus.models.graphs import ClassifierGraph
from medfocus.settings import Focus, Preprocessing

BATCH = 32


@dataclass(frozen=True, eq=False)
class Examples:
    """N images with their labels and their focus masks; every frame of a file is one.

    Attributes:
        pixels: uint8 (N, R, R, 3), CLIP's view before it is normalised.
        sizes: height and width of each source image.
        focus_logits: float32 (N, h, w); score: (N,).
        labels: int64 (N,).
        files: int64 (N,), which of the items an image is of.
        content: SHA-256 of each image's shape and pixels.
        lesions: float32 (N, h, w) in [0, 1], how much of each cell of SAM2's frame the lesion
            covers; None where no item has masks. An item without any, among others that have
            some, has no lesion.
    """

    pixels: NDArray[np.uint8]
    sizes: tuple[tuple[int, int], ...]
    focus_logits: Tensor
    score: Tensor
    labels: Tensor
    files: Tensor
    content: tuple[str, ...]
    lesions: Tensor | None

    def __len__(self) -> int:
        return len(self.labels)

    def rows_of(self, files: Sequence[int]) -> Tensor:
        """(M,) int64, ascending: which images are of these items."""
        return torch.isin(self.files, torch.tensor(files)).nonzero()[:, 0]

    def take(self, rows: Tensor) -> "Examples":
        """Some of the images: (M,) int64, which."""
        return Examples(
            self.pixels[rows.numpy()],
            tuple(self.sizes[row] for row in rows),
            self.focus_logits[rows],
            self.score[rows],
            self.labels[rows],
            self.files[rows],
            tuple(self.content[row] for row in rows),
            None if self.lesions is None else self.lesions[rows],
        )


def load_examples(
    items: Sequence[Item], backbones: Backbones, store: FocusStore, progress: Progress
) -> Examples:
    """Read images, and segment those that the store does not know.

    Raises:
        ImageError: files or masks that cannot be read, all of them counted and some named.
    """
    preprocessing = backbones.preprocessing
    side = preprocessing.segmenter.size // MASK_STRIDE
    with_lesions = any(item.masks for item in items)
    pixels, sizes, files, content, lesions, errors = [], [], [], [], [], []
    segmenting = _Segmenting(backbones, store)
    for index in progress.track(range(len(items)), description="reading and segmenting"):
        try:
            frames = read_item(items[index])
        except ImageError as error:
            errors.append(error)
            continue
        for image, lesion in frames:
            pixels.append(classifier_view(image, preprocessing))
            sizes.append((image.pixels.shape[0], image.pixels.shape[1]))
            files.append(index)
            content.append(content_hash(image))
            segmenting.add(image, content[-1])
            if with_lesions:
                # Averaged over the cells of SAM2's low-resolution frame: (side, side).
                lesions.append(F.adaptive_avg_pool2d(torch.from_numpy(lesion)[None], side)[0])
    if errors:
        raise unreadable(errors, len(items))
    segmenting.run()
    found = [segmenting.found[name] for name in content]
    return Examples(
        np.stack(pixels),
        tuple(sizes),
        torch.stack([focus_logits for focus_logits, _ in found]),
        torch.stack([score for _, score in found]),
        torch.tensor([items[index].label for index in files]),
        torch.tensor(files),
        tuple(content),
        torch.stack(lesions) if with_lesions else None,
    )


def content_hash(image: SourceImage) -> str:
    """SHA-256 of an image's shape and pixels, whatever file they came from."""
    digest = sha256(str(image.pixels.shape).encode())
    digest.update(np.ascontiguousarray(image.pixels).data)
    return digest.hexdigest()


class _Segmenting:
    """Images on their way through the segmenter, a batch at a time; what is known skips it."""

    def __init__(self, backbones: Backbones, store: FocusStore) -> None:
        self._backbones, self._store = backbones, store
        self._waiting: dict[str, NDArray[np.uint8]] = {}
        self.found: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, image: SourceImage, content: str) -> None:
        if content in self.found or content in self._waiting:
            return
        known = self._store.read(content)
        if known is not None:
            self.found[content] = known
            return
        size = self._backbones.preprocessing.segmenter.size
        self._waiting[content] = segmenter_pixels(image.pixels, size)
        if len(self._waiting) == BATCH:
            self.run()

    @torch.inference_mode()
    def run(self) -> None:
        if not self._waiting:
            return
        first, device = self._backbones.preprocessing.segmenter, self._backbones.device
        image = normalise(np.stack([*self._waiting.values()]), first.mean, first.std)
        points, labels = map(torch.from_numpy, in_frame(self._backbones.prompts, first.size))
        count = len(image)
        output = self._backbones.segmenter(
            torch.from_numpy(image).to(device),
            points.expand(count, *points.shape).to(device),
            labels.expand(count, *labels.shape).to(device),
        )
        for content, focus_logits, score in zip(
            self._waiting, output.focus_logits.cpu(), output.score.cpu(), strict=True
        ):
            self._store.write(content, focus_logits, score)
            self.found[content] = focus_logits, score
        self._waiting = {}


def classifier_inputs(
    examples: Examples, rows: Tensor, backbones: Backbones, focus: Focus
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the classifier's graph takes of some images, on the device.

    Args:
        examples: the images.
        rows: (B,) which of them.
        backbones: for its preprocessing and device.
        focus: decides what the masks are pooled over.
    """
    preprocessing = backbones.preprocessing
    second = preprocessing.classifier
    image = normalise(examples.pixels[rows.numpy()], second.mean, second.std)
    weights = [_pooling(examples.sizes[row], preprocessing, focus) for row in rows.tolist()]
    pooled = (torch.stack(half) for half in zip(*weights, strict=True))
    tensors = (torch.from_numpy(image), examples.focus_logits[rows], *pooled)
    image_, logits, over_rows, over_cols = (tensor.to(backbones.device) for tensor in tensors)
    return image_, logits, over_rows, over_cols


@lru_cache(maxsize=256)
def _pooling(
    size: tuple[int, int], preprocessing: Preprocessing, focus: Focus
) -> tuple[Tensor, Tensor]:
    rows, cols = pooling(size, preprocessing, focus)
    return torch.from_numpy(rows), torch.from_numpy(cols)


@torch.no_grad()  # and not inference mode: heads are trained on what comes out
def embed(
    examples: Examples, backbones: Backbones, graph: ClassifierGraph
) -> tuple[Tensor, Tensor]:
    """What the engine would compute: unit embeddings (N, E) and focused (N,), on the CPU.

    Args:
        examples: the images.
        backbones: for its preprocessing and device.
        graph: its head is not used.
    """
    embeddings, focused = [], []
    for rows in torch.split(torch.arange(len(examples)), BATCH):
        output = graph(*classifier_inputs(examples, rows, backbones, graph.focus))
        embeddings.append(F.normalize(output.embedding, dim=-1).cpu())
        focused.append(output.focused.cpu())
    return torch.cat(embeddings), torch.cat(focused)
