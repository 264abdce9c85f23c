"""A cache of focus masks on disk, so that each image is segmented only once."""

import json
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from medfocus.atomic_write import atomic_write
from medfocus.errors import FileError
from medfocus.fewshot.backbones import Backbones


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
            "version": 2,
            "weights": backbones.segmenter_sha256,
            "input": asdict(backbones.preprocessing.segmenter),
            "prompts": asdict(backbones.prompts),
            "selection": asdict(backbones.segmenter.selection),
        }
        digest = sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
        self.folder = root / digest[:16]

    def read(self, content: str) -> tuple[Tensor, Tensor] | None:
        """An image's focus logits (h, w) and score (); None if they are not stored.

        Args:
            content: the hash of the image's pixels.
        """
        try:
            tensors = load(self._file(content).read_bytes())
            return tensors["focus_logits"], tensors["score"]
        except (OSError, SafetensorError, KeyError):
            return None  # a damaged file is written again

    def write(self, content: str, focus_logits: Tensor, score: Tensor) -> None:
        """Store an image's focus logits (h, w) and score ().

        Raises:
            FileError: the folder cannot be written to.
        """
        tensors = {"focus_logits": focus_logits.contiguous(), "score": score.contiguous()}
        try:
            atomic_write(self._file(content), save(tensors))
        except FileError as error:
            hint = "choose another folder with --cache"
            raise FileError(str(self.folder), error.problem, hint, code=error.code) from error

    def _file(self, content: str) -> Path:
        return self.folder / content[:2] / f"{content}.safetensors"
