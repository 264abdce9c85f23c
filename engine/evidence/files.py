"""The files that show where the model looked: one picture, or one mask, per image."""

import hashlib
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.evidence.overlay import draw
from medfocus.engine.io.images import SourceImage
from medfocus.engine.io.reading.reader import each_image
from medfocus.engine.preprocess.geometry import Geometry
from medfocus.errors import InputError
from medfocus.files.atomic_write import atomic_write
from medfocus.files.file_errors import unwritable

if TYPE_CHECKING:
    from medfocus.engine.prediction import Prediction

MASK_FORMATS = ("png", "npy")  # as `Prediction.save_mask` writes them


class EvidenceFolders(NamedTuple):
    """Where evidence is written; None where it is not.

    Attributes:
        overlays: one picture per image, as `overlay.draw` makes it.
        masks: one focus mask per image, in the image's frame.
        mask_format: one of `MASK_FORMATS`.
    """

    overlays: Path | None
    masks: Path | None
    mask_format: str = MASK_FORMATS[0]

    @property
    def wanted(self) -> list[Path]:
        """The folders."""
        return [folder for folder in (self.overlays, self.masks) if folder is not None]

    @property
    def identity(self) -> dict[str, str | None]:
        """What of it a resumed run must have in common with the interrupted one."""
        overlays, masks = (
            None if folder is None else str(folder.absolute())
            for folder in (self.overlays, self.masks)
        )
        return {"overlays": overlays, "masks": masks, "mask_format": masks and self.mask_format}


def make_folders(folders: EvidenceFolders, manifest: Manifest) -> None:
    """Fail before the first image, not after it, if evidence cannot be written.

    Raises:
        InputError: masks of an engine that does not segment, or pictures and masks in one folder,
            where their names are equal (`input.mismatch`).
        FileError: a folder cannot be made.
    """
    if folders.masks is not None and manifest.focus.mode == "none":
        problem, hint = "this engine does not segment, so there are no masks", "leave it out"
        raise InputError("--masks", problem, hint, code="input.mismatch")
    if len({folder.resolve() for folder in folders.wanted}) < len(folders.wanted):
        problem, hint = "is the folder of --overlays too", "name another"
        raise InputError("--masks", problem, hint, code="input.mismatch")
    for folder in folders.wanted:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error


def write_evidence(
    folders: EvidenceFolders, path: Path, predictions: Sequence["Prediction"], manifest: Manifest
) -> None:
    """Write the evidence of one file.

    Args:
        folders: where to.
        path: the file, which is read again for the pictures.
        predictions: of its images, none with an error.
        manifest: of the engine.

    Raises:
        ImageError: the file can no longer be read.
        FileError: something cannot be written.
    """
    write_masks(folders, predictions)
    if folders.overlays is not None:
        for image, prediction in zip(each_image(path), predictions, strict=True):
            write_overlay(folders.overlays, image, prediction, manifest, prediction.source)


def write_masks(folders: EvidenceFolders, predictions: Sequence["Prediction"]) -> None:
    """Write the focus masks of images, none of whose predictions has an error, if any are wanted.

    Raises:
        FileError: one cannot be written.
    """
    if folders.masks is not None:
        for prediction in predictions:
            name = evidence_name(prediction.source, folders.mask_format)
            prediction.save_mask(folders.masks / name)


def write_overlay(
    folder: Path, image: SourceImage, prediction: "Prediction", manifest: Manifest, name: str
) -> None:
    """Write the picture of a prediction for an image, as the evidence of `name`.

    Raises:
        FileError: it cannot be written.
    """
    classifier = manifest.preprocessing.classifier
    height, width = image.pixels.shape[:2]
    seen = Geometry.fit(height, width, classifier.size, classifier.resize_mode, image.pixel_aspect)
    box = seen.top, seen.left, seen.bottom, seen.right
    stream = io.BytesIO()
    draw(image.pixels, prediction, box).save(stream, "PNG")
    atomic_write(folder / evidence_name(name, "png"), stream.getvalue())


def evidence_name(source: str, suffix: str) -> str:
    """A file name for a source's evidence: readable, and unique by a hash of the whole path."""
    digest = hashlib.sha256(os.fsencode(Path(source).absolute())).hexdigest()[:10]
    readable = re.sub(r"[^\w.-]+", "_", "-".join(Path(source).parts[-2:])).lstrip(".-_")
    short = readable.encode()[:120].decode(errors="ignore")  # a name has at most 255 bytes
    return f"{short}-{digest}.{suffix}"
