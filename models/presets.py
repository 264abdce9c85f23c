"""The four presets: a CLIP and a SAM2 each, and how they expect images to be prepared."""

from dataclasses import dataclass

from medfocus.errors import InputError
from medfocus.models.clip.encoder import FocusCLIP
from medfocus.models.head import DEFAULT_STRENGTH
from medfocus.models.sam2.segmenter import Segmenter
from medfocus.settings import (
    FOREGROUND,
    ClassifierInput,
    Interpolation,
    Preprocessing,
    Prompts,
    ResizeMode,
    SegmenterInput,
)

# open_clip/constants.py (OPENAI_DATASET_MEAN, _STD) and sam2/utils/transforms.py.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SAM2_MEAN, SAM2_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

GRID = 3


def prompt_grid(side: int) -> Prompts:
    """side×side prompts of one foreground point each, evenly spaced.

    A region of interest lies in the inner part of the field of view, so the rim has no points.
    """
    places = [number / (side + 1) for number in range(1, side + 1)]
    points = tuple(((x, y),) for y in places for x in places)
    return Prompts(points, ((FOREGROUND,),) * len(points))


ZERO_SHOT = prompt_grid(GRID)  # the prompts of an image that has none of its own


@dataclass(frozen=True)
class Preset:
    """Two architectures that are used together.

    Attributes:
        name: as on the command line.
        clip, sam2: architecture names.
        resize_mode, interpolation: how CLIP's preprocessing fits an image into its square.
        buckets: batch sizes to prepare for. On a CPU larger ones only cost memory: checking base
            at (1, 4) needed 6.5 GB, large at (1, 2) 10.7 GB.
        strength: λ of every layer where nothing was learned.
    """

    name: str
    clip: str
    sam2: str
    resize_mode: ResizeMode = "shortest"
    interpolation: Interpolation = "bicubic"
    buckets: tuple[int, ...] = (1, 4)
    strength: float = DEFAULT_STRENGTH

    def preprocessing(self, clip: FocusCLIP, segmenter: Segmenter) -> Preprocessing:
        """How images are prepared for the two models."""
        return Preprocessing(
            SegmenterInput(segmenter.image_size, SAM2_MEAN, SAM2_STD),
            ClassifierInput(
                clip.image_size,
                clip.grid,
                self.resize_mode,
                self.interpolation,
                CLIP_MEAN,
                CLIP_STD,
            ),
        )


PRESETS = {
    preset.name: preset
    for preset in (
        # Its CLIP was trained with steered attention, and tolerates more of it (docs/tiny.md).
        Preset("tiny", "medfocus_tiny", "medfocus_tiny", buckets=(1, 8, 32), strength=0.7),
        Preset("base", "ViT-B-16", "sam2.1_hiera_tiny"),
        Preset("large", "ViT-L-14-336-quickgelu", "sam2.1_hiera_base_plus", buckets=(1, 2)),
        Preset("biomed", "BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", "sam2.1_hiera_small"),
    )
}


def preset(name: str) -> Preset:
    """A preset by name.

    Raises:
        InputError: the name is unknown (`model.unknown`).
    """
    if name not in PRESETS:
        hint = "use one of " + ", ".join(PRESETS)
        raise InputError(f"preset {name!r}", "not known", hint, code="model.unknown")
    return PRESETS[name]
