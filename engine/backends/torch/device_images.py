"""A batch's images on a GPU: uploaded as read, one after another, and resized for both models."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from medfocus.engine.backends.torch.host_device_buffer import HostDeviceBuffer
from medfocus.engine.backends.torch.resize import (
    Frame,
    Taps,
    classifier_frame,
    passes,
    segmenter_frame,
)
from medfocus.engine.io.images import MAX_PIXELS, SourceImage
from medfocus.engine.preprocess.batch import classifier_view
from medfocus.engine.preprocess.resize import normalise, segmenter_pixels
from medfocus.kernels.resize import Pass, resize
from medfocus.settings import Preprocessing, Rgb

# An image's share of the buffer for weights, per pixel of a side of a model's input: sixteen times
# what an image needs that is not resized.
WEIGHTS = 64


class _Upload(NamedTuple):
    """What is uploaded of an image.

    Attributes:
        as_read: whether the image itself, or what the host has resized for both models.
        nbytes: size.
        frames: the two models' inputs of it.
        offsets: where in it the image of each frame begins.
    """

    as_read: bool
    nbytes: int
    frames: tuple[Frame, Frame]
    offsets: tuple[int, int]


class DeviceImages:
    """Buffers for the most images of a batch, whatever their sizes.

    An image that needs more than its share of them is resized by the host, and uploaded in both
    models' sizes.

    Args:
        preprocessing: the manifest's.
        count: the most images of a batch.
        device: a GPU; or the CPU, without pinned memory.

    Attributes:
        segmenter: the segmenter's input, float32 (count, 3, S, S).
        classifier: the classifier's input, float32 (count, 3, R, R).
    """

    def __init__(
        self, preprocessing: Preprocessing, count: int, device: str | torch.device
    ) -> None:
        self._preprocessing = preprocessing
        models = preprocessing.segmenter, preprocessing.classifier
        sides = [model.size for model in models]
        self._split = 3 * sides[0] ** 2  # bytes of a share before the classifier's image
        self._share = self._split + 3 * sides[1] ** 2
        self._weights = WEIGHTS * sum(sides)
        self._pixels = HostDeviceBuffer(device, torch.uint8, count * self._share)
        self._taps = HostDeviceBuffer(device, torch.int32, count * self._weights)
        self._plans = [
            HostDeviceBuffer(device, torch.int64, count, 2, len(Pass._fields)) for _ in models
        ]
        self._between = torch.zeros(count * self._share, dtype=torch.uint8, device=device)
        self._levels = [levels_of(model.mean, model.std).to(device) for model in models]
        self.segmenter, self.classifier = (
            torch.zeros(count, 3, side, side, device=device) for side in sides
        )

    @property
    def nbytes(self) -> int:
        """Size on the device."""
        uploaded = [buffer.device for buffer in (self._pixels, self._taps, *self._plans)]
        tensors = *uploaded, *self._levels, self._between, self.segmenter, self.classifier
        return sum(tensor.nbytes for tensor in tensors)

    def begin(self, images: Sequence[SourceImage]) -> None:
        """Place each image in the upload, and plan how it is resized."""
        self._images = images
        self._uploads = [self._upload(image) for image in images]
        self._places = [*accumulate((upload.nbytes for upload in self._uploads), initial=0)]
        self._tables = Taps(self._taps.host.numpy())
        for model, plan in enumerate(self._plans):
            plan.host[: len(images)] = torch.tensor(
                [self._planned(row, model) for row in range(len(images))]
            )

    def _planned(self, row: int, model: int) -> tuple[Pass, Pass]:
        upload = self._uploads[row]
        frame = upload.frames[model]
        return passes(
            frame,
            source=self._places[row] + upload.offsets[model],
            between=row * self._share,
            out=row * 3 * frame.rows.size**2,
            taps=self._tables,
        )

    def _upload(self, image: SourceImage) -> _Upload:
        height, width = image.pixels.shape[:2]
        first, second = self._preprocessing.segmenter, self._preprocessing.classifier
        frames = (
            segmenter_frame(height, width, first.size),
            classifier_frame(height, width, second, image.pixel_aspect),
        )
        rows, columns = frames[1]
        if (
            max(image.pixels.nbytes, *(frame.between for frame in frames)) <= self._share
            and sum(frame.taps for frame in frames) <= self._weights
            and rows.target * columns.target <= MAX_PIXELS  # else the host refuses it
        ):
            return _Upload(True, image.pixels.nbytes, frames, (0, 0))
        resized = (
            segmenter_frame(first.size, first.size, first.size),
            classifier_frame(second.size, second.size, second),
        )
        return _Upload(False, self._share, resized, (0, self._split))

    def write(self, row: int) -> None:
        """Copy an image into the upload; for different rows in any threads.

        Raises:
            ImageError: so long and thin that resizing it for CLIP would make it too large.
        """
        image = self._images[row]
        into = self._pixels.host[self._places[row] : self._places[row + 1]].numpy()
        if self._uploads[row].as_read:
            into[:] = image.pixels.reshape(-1)
        else:
            into[self._split :] = classifier_view(image, self._preprocessing).reshape(-1)
            side = self._preprocessing.segmenter.size
            into[: self._split] = segmenter_pixels(image.pixels, side).reshape(-1)

    def preprocess(self) -> None:
        """Upload the batch, and compute both models' inputs of it."""
        count = len(self._images)
        self._pixels.up(self._places[-1])
        self._taps.up(self._tables.end)
        for plan, levels, out in zip(
            self._plans, self._levels, (self.segmenter, self.classifier), strict=True
        ):
            plan.up(count)
            resize(
                self._pixels.device,
                self._taps.device,
                plan.device[:count],
                plan.host[:count],
                levels,
                self._between,
                out[:count],
            )

    def end(self) -> None:
        """Drop the images."""
        self._images = ()


def levels_of(mean: Rgb, std: Rgb) -> Tensor:
    """What `preprocess.normalise` makes of each grey level, in each channel: float32 (3, 256)."""
    every = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)  # (1, 256, 3)
    return torch.from_numpy(normalise(every, mean, std)[:, 0])
