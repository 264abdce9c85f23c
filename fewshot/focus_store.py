"""Focus masks on the disk, so that an image is segmented once and never again."""

import json
import os
import tempfile
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from medfocus.errors import InputError
from medfocus.fewshot.backbones import Backbones


def default_folder() -> Path:
    """Where masks are kept: `medfocus/focus` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medfocus" / "focus"


class FocusStore:
    """A file a mask, named after the image's pixels, in a folder named after what made it.

    A file appears whole or not at all, so runs may share a store, and an interrupt loses nothing.
    File names and contents tell nothing of where an image came from.

    Args:
        root: the folder of all stores.
        backbones: the segmenter, its prompts and its selection; other ones get another folder.
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
        """Focus logits (h, w) and score () of an image; None where they are not kept.

        Args:
            content: the hash of its pixels.
        """
        try:
            tensors = load(self._file(content).read_bytes())
            return tensors["focus_logits"], tensors["score"]
        except (OSError, SafetensorError, KeyError):
            return None  # a damaged file is made anew

    def write(self, content: str, focus_logits: Tensor, score: Tensor) -> None:
        """Keep what the segmenter found in an image.

        Raises:
            InputError: the folder cannot be written to.
        """
        file = self._file(content)
        tensors = {"focus_logits": focus_logits.contiguous(), "score": score.contiguous()}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as part:
                part.write(save(tensors))
            Path(part.name).replace(file)
        except OSError as error:
            raise InputError(
                str(self.folder),
                f"cannot be written to ({error.strerror})",
                "name another folder with --cache",
            ) from error

    def _file(self, content: str) -> Path:
        return self.folder / content[:2] / f"{content}.safetensors"
