"""Loads architectures with their weights, for a preset or from the user's files."""

from dataclasses import dataclass
from pathlib import Path

from open_clip.model import CLIP
from torch import Tensor

from medfocus.errors import WeightsError
from medfocus.models.clip.architecture import build_clip
from medfocus.models.clip.text import Tokenizer, tokenizer_for
from medfocus.models.sam2.segmenter import Segmenter
from medfocus.models.weights import (
    CLIP_BUFFERS,
    SAM2_VIDEO_ONLY,
    load_strictly,
    read_weights,
    resolve,
    sha256,
)

TINY = "medfocus_tiny"
SHIPPED = Path(__file__).parent / "tiny"


def load_segmenter(
    architecture: str, weights: str | Path | None = None, image_size: int | None = None
) -> tuple[Segmenter, str]:
    """SAM2's image path with weights, in evaluation mode, and the weight file's SHA-256.

    Args:
        architecture: a name from `SAM2_ARCHITECTURES`.
        weights: a file or a hub id; None for the shipped weights, which only the tiny one has.
        image_size: S; None for the architecture's native size.

    Raises:
        InputError: the name is unknown (`model.unknown`).
        WeightsError: the weights are missing, unsafe or do not fit.
    """
    segmenter = Segmenter(architecture, image_size)
    path = _file(architecture, weights, "segmenter", "--sam2-weights")
    load_strictly(segmenter, read_weights(path), str(path), ignore=SAM2_VIDEO_ONLY)
    return segmenter.eval(), sha256(path)


@dataclass(frozen=True, eq=False)
class LoadedClip:
    """Both towers of a CLIP with weights, in evaluation mode.

    Attributes:
        model: open_clip's model; its `visual` is the image encoder.
        tokenize: its tokenizer.
        sha256: of the weight file.
    """

    model: CLIP
    tokenize: Tokenizer
    sha256: str

    @property
    def logit_scale(self) -> Tensor:
        """() CLIP's factor on the cosine, after exp."""
        scale: Tensor = self.model.logit_scale.detach().exp()
        return scale


def load_clip(
    architecture: str, weights: str | Path | None = None, text_folder: Path | None = None
) -> LoadedClip:
    """Both towers of a CLIP with weights.

    Args:
        architecture: a name known to medfocus or open_clip.
        weights: a file or a hub id; None for the shipped weights, which only the tiny one has.
        text_folder: configuration and vocabulary of a Hugging Face text encoder, as BiomedCLIP's.

    Raises:
        InputError: the name is unknown (`model.unknown`).
        FileError: the text encoder's folder is missing or unusable (`model.text_encoder`).
        WeightsError: the weights are missing, unsafe or do not fit.
    """
    path = _file(architecture, weights, "clip", "--clip-weights")
    clip = build_clip(architecture, text_folder)
    load_strictly(clip, read_weights(path), str(path), ignore=CLIP_BUFFERS)
    return LoadedClip(clip.eval(), tokenizer_for(architecture, text_folder), sha256(path))


def _file(architecture: str, weights: str | Path | None, model: str, flag: str) -> Path:
    if weights is not None:
        return resolve(weights)
    if architecture != TINY:
        raise WeightsError(
            f"weights of {architecture}",
            "none are shipped",
            f"download them and give the file, or owner/name@<commit>:<file>, with {flag}",
            code="weights.not_shipped",
        )
    return SHIPPED / f"{model}.safetensors"
