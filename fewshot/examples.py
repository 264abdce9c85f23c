"""Labelled images as inputs of the two graphs, read and segmented once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import MASK_STRIDE, classifier_view, in_frame, pooling
from medfocus.engine.preprocess.resize import normalise, segmenter_pixels
from medfocus.errors import ImageError
from medfocus.fewshot.backbones import Backbones
from medfocus.fewshot.data.dataset import Item
from medfocus.fewshot.data.images import content_hash, read_item, unreadable
from medfocus.fewshot.data.splitting.groups import components
from medfocus.fewshot.focus_store import FocusStore
from medfocus.models.graphs import ClassifierGraph
from medfocus.settings import Focus, Preprocessing

BATCH = 32


@dataclass(frozen=True, eq=False)
class Examples:
    """N images with their labels and focus masks; each frame of a file is one image.

    Attributes:
        pixels: uint8 (N, R, R, 3), CLIP's view before normalisation.
        sizes: height, width and pixel aspect of each source image.
        focus_logits: float32 (N, h, w); score: (N,).
        labels: int64 (N,).
        files: int64 (N,), index of each image's item.
        groups: int64 (N,), equal for images of one file or patient, and for identical images.
        content: SHA-256 of each image's shape and pixels.
        lesions: float32 (N, h, w) in [0, 1], the lesion's coverage of each cell of SAM2's frame;
            None if no item has masks. If some have, an item without masks has no lesion.
    """

    pixels: NDArray[np.uint8]
    sizes: tuple[tuple[int, int, float], ...]
    focus_logits: Tensor
    score: Tensor
    labels: Tensor
    files: Tensor
    groups: Tensor
    content: tuple[str, ...]
    lesions: Tensor | None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def with_lesion(self) -> Tensor:
        """(N,) bool: the lesion is known and covers more than half of at least one cell."""
        if self.lesions is None:
            return torch.zeros(len(self), dtype=torch.bool)
        return (self.lesions > 0.5).any(2).any(1)

    def rows_of(self, files: Sequence[int]) -> Tensor:
        """(M,) int64, ascending: the images of these items."""
        return torch.isin(self.files, torch.tensor(files)).nonzero()[:, 0]

    def take(self, rows: Tensor) -> "Examples":
        """The images of some rows, (M,) int64."""
        return Examples(
            self.pixels[rows.numpy()],
            tuple(self.sizes[row] for row in rows),
            self.focus_logits[rows],
            self.score[rows],
            self.labels[rows],
            self.files[rows],
            self.groups[rows],
            tuple(self.content[row] for row in rows),
            None if self.lesions is None else self.lesions[rows],
        )


def load_examples(
    items: Sequence[Item], backbones: Backbones, store: FocusStore, progress: Progress
) -> Examples:
    """Read images, and segment those that are not in the store.

    Raises:
        ImageError: files or masks cannot be read; gives their number and names some of them.
        FileError: the store cannot be written to.
    """
    preprocessing = backbones.preprocessing
    side = preprocessing.segmenter.size // MASK_STRIDE
    with_lesions = any(item.masks for item in items)
    pixels, sizes, found, files, content, keys, lesions, errors = ([] for _ in range(8))
    for index in progress.track(range(len(items)), description="reading and segmenting"):
        item = items[index]
        try:
            frames = read_item(item)
            views = [classifier_view(image, preprocessing) for image, _ in frames]
        except ImageError as error:
            errors.append(error)
            continue
        pixels += views
        for image, lesion in frames:
            sizes.append((*image.pixels.shape[:2], image.pixel_aspect))
            files.append(index)
            content.append(content_hash(image))
            keys.append([("file", index), ("content", content[-1]), ("group", item.group or index)])
            found.append(_segment(image, content[-1], backbones, store))
            if with_lesions:
                # The mean over each cell of SAM2's low-resolution frame: (side, side).
                lesions.append(F.adaptive_avg_pool2d(torch.from_numpy(lesion)[None], side)[0])
    if errors:
        raise unreadable(errors, len(items))
    return Examples(
        np.stack(pixels),
        tuple(sizes),
        torch.stack([focus_logits for focus_logits, _ in found]),
        torch.stack([score for _, score in found]),
        torch.tensor([items[index].label for index in files]),
        torch.tensor(files),
        torch.tensor(components(keys)),
        tuple(content),
        torch.stack(lesions) if with_lesions else None,
    )


@torch.inference_mode()
def _segment(
    image: SourceImage, content: str, backbones: Backbones, store: FocusStore
) -> tuple[Tensor, Tensor]:
    """An image's focus logits (h, w) and score (), from the store if they are there.

    Each image is segmented in a batch of its own. In a shared batch, its last bits would depend on
    the batch size, and so on what is already in the store.
    """
    known = store.read(content)
    if known is not None:
        return known
    first, device = backbones.preprocessing.segmenter, backbones.device
    pixels = segmenter_pixels(image.pixels, first.size)[None]
    points, labels = in_frame(backbones.prompts, first.size)
    inputs = normalise(pixels, first.mean, first.std), points[None], labels[None]
    output = backbones.segmenter(*(torch.from_numpy(array).to(device) for array in inputs))
    found = output.focus_logits[0].cpu(), output.score[0].cpu()
    store.write(content, *found)
    return found


def classifier_inputs(
    examples: Examples, rows: Tensor, backbones: Backbones, focus: Focus
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The classifier graph's inputs for some images, on the device.

    Args:
        examples: the images.
        rows: (B,) indices into the examples.
        backbones: gives the preprocessing and the device.
        focus: its mode decides whether masks are pooled per patch or per pixel.

    Returns:
        image (B, 3, R, R), focus logits (B, h, w), and pooling weights for rows and columns.
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
    size: tuple[int, int, float], preprocessing: Preprocessing, focus: Focus
) -> tuple[Tensor, Tensor]:
    height, width, pixel_aspect = size
    rows, cols = pooling((height, width), preprocessing, focus, pixel_aspect)
    return torch.from_numpy(rows), torch.from_numpy(cols)


@torch.no_grad()  # not inference mode: heads are trained on the embeddings
def embed(
    examples: Examples, backbones: Backbones, graph: ClassifierGraph
) -> tuple[Tensor, Tensor]:
    """Unit embeddings (N, E) and focused (N,) as the engine computes them, on the CPU.

    Args:
        examples: the images.
        backbones: gives the preprocessing and the device.
        graph: the classifier; its head is not used.
    """
    embeddings, focused = [], []
    for rows in torch.split(torch.arange(len(examples)), BATCH):
        output = graph(*classifier_inputs(examples, rows, backbones, graph.focus))
        embeddings.append(F.normalize(output.embedding, dim=-1).cpu())
        focused.append(output.focused.cpu())
    return torch.cat(embeddings), torch.cat(focused)
