"""A cache of focus masks on disk, so that each image is segmented only once."""

import json
import logging
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from medfocus.engine.preprocess.batch import MASK_STRIDE
from medfocus.errors import FileError
from medfocus.fewshot.backbones import Backbones
from medfocus.files.atomic_write import atomic_write

log = logging.getLogger(__name__)


class FocusStore:
    """One file per mask, named by the hash of the image's pixels, in one folder per segmenter.

    Files are written atomically, so concurrent runs can share a store and an interrupted run loses
    nothing. Neither names nor contents of the files reveal where an image came from.

    Args:
        root: the folder of all stores.
        backbones: its segmenter, prompts and mask selection determine the store's folder.
    """

    def __init__(self, root: Path, backbones: Backbones) -> None:
        recipe = {
            "version": 3,
            "weights": backbones.segmenter_sha256,
            "input": asdict(backbones.preprocessing.segmenter),
            "prompts": asdict(backbones.prompts),
            "selection": asdict(backbones.segmenter.selection),
        }
        digest = sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
        self.folder = root / digest[:16]
        self._side = backbones.preprocessing.segmenter.size // MASK_STRIDE
        self._warned = False

    def read(self, content: str) -> tuple[Tensor, Tensor] | None:
        """An image's focus logits (h, w) and score (); None if they are not stored.

        An entry that is damaged is as good as none: it is made and written again, and a warning is
        logged, once.

        Args:
            content: the hash of the image's pixels.
        """
        try:
            data = self._file(content).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            data = b""
        entry = self._checked(content, data)
        if entry is None and not self._warned:
            self._warned = True
            log.warning("%s: holds damaged focus masks, which are made again", self.folder)
        return entry

    def write(self, content: str, focus_logits: Tensor, score: Tensor) -> None:
        """Store an image's focus logits (h, w) and score (), both float32.

        Raises:
            FileError: the folder cannot be written to.
        """
        tensors = {
            "focus_logits": focus_logits.contiguous(),
            "score": score.contiguous(),
            "sha256": _digest(content, focus_logits, score),
        }
        try:
            atomic_write(self._file(content), save(tensors))
        except FileError as error:
            hint = "choose another folder with --cache"
            raise FileError(str(self.folder), error.problem, hint, code=error.code) from error

    def _checked(self, content: str, data: bytes) -> tuple[Tensor, Tensor] | None:
        """What `write` stored for this image, or None if it is anything else."""
        try:
            tensors = load(data)
            focus_logits, score = tensors["focus_logits"], tensors["score"]
            digest = tensors["sha256"]
        except (KeyError, SafetensorError, ValueError):
            return None
        typed = focus_logits.dtype == score.dtype == torch.float32
        shaped = focus_logits.shape == (self._side, self._side) and score.ndim == 0
        if not (typed and shaped and torch.equal(digest, _digest(content, focus_logits, score))):
            return None
        finite = bool(focus_logits.isfinite().all() and score.isfinite())
        return (focus_logits, score) if finite else None

    def _file(self, content: str) -> Path:
        return self.folder / content[:2] / f"{content}.safetensors"


def _digest(content: str, focus_logits: Tensor, score: Tensor) -> Tensor:
    """SHA-256 of an entry and of what it belongs to, as 32 bytes."""
    digest = sha256(content.encode())
    for tensor in (focus_logits, score):
        digest.update(tensor.contiguous().numpy().tobytes())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
