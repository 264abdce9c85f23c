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

from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import MASK_STRIDE, classifier_view, in_frame, pooling
from medfocus.engine.preprocess.resize import normalise, segmenter_pixels
from medfocus.errors import ImageError
from medfocus.fewshot.backbones import Backbones
from medfocus.fewshot.data.dataset import Item
from medfocus.fewshot.data.images import read_item, unreadable
from medfocus.fewshot.data.splitting.groups import joined
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
        groups: int64 (N,), equal where images are of one file, of one patient, or the same picture.
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
    groups: Tensor
    content: tuple[str, ...]
    lesions: Tensor | None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def with_lesion(self) -> Tensor:
        """(N,) bool: whose lesion is there, and covers more than half of some cell."""
        if self.lesions is None:
            return torch.zeros(len(self), dtype=torch.bool)
        return (self.lesions > 0.5).any(2).any(1)

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
            self.groups[rows],
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
            sizes.append((image.pixels.shape[0], image.pixels.shape[1]))
            files.append(index)
            content.append(content_hash(image))
            keys.append([("file", index), ("content", content[-1]), ("group", item.group or index)])
            found.append(_segmented(image, content[-1], backbones, store))
            if with_lesions:
                # Averaged over the cells of SAM2's low-resolution frame: (side, side).
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
        torch.tensor(joined(keys)),
        tuple(content),
        torch.stack(lesions) if with_lesions else None,
    )


def content_hash(image: SourceImage) -> str:
    """SHA-256 of an image's shape and pixels, whatever file they came from."""
    digest = sha256(str(image.pixels.shape).encode())
    digest.update(np.ascontiguousarray(image.pixels).data)
    return digest.hexdigest()


@torch.inference_mode()
def _segmented(
    image: SourceImage, content: str, backbones: Backbones, store: FocusStore
) -> tuple[Tensor, Tensor]:
    """An image's focus logits (h, w) and score (), from the store where they are kept.

    Each image is segmented by itself: the last bits of one that shares a batch depend on it, and
    what a batch would hold depends on what the store holds already.
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
