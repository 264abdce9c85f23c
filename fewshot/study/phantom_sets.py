"""Four labelled phantom sets that replace the paper's data sets where those are unavailable.

Organ, number of classes and imbalance are those of the paper's sets. The label is set by one
lesion; everything else varies independently of it: each image also has decoys (smaller, fainter
lesions of random kinds), and the usual text labels and devices.
"""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from medfocus.errors import FileError
from medfocus.files.atomic_write import atomic_write
from medfocus.phantoms.anatomies import ANATOMIES
from medfocus.phantoms.catalogue import LesionKind
from medfocus.phantoms.distractors import add_distractors
from medfocus.phantoms.image_folder import save_picture
from medfocus.phantoms.lesions import Site, paint, place
from medfocus.phantoms.phantom import Phantom
from medfocus.phantoms.texture import Anatomy

SetName = Literal["covid", "lung", "brain", "breast"]

SIDE = 256  # pixels
PER_PART = 400  # images in the training part, and as many in the test part
DIAMETERS = (0.15, 0.25)  # of the lesion, relative to the image side; smaller than in pre-training
DECOYS = 4
DECOY_SIZE = (0.4, 0.8)  # relative to the largest lesion
DECOY_OPACITY = (0.4, 0.7)
_ATTEMPTS = 30
_STREAM = 5  # separates these random streams from others with the same seeds


@dataclass(frozen=True)
class PhantomSet:
    """A set's organ, its lesion kinds (the classes) and their shares."""

    organ: str
    kinds: tuple[LesionKind, ...]
    shares: tuple[float, ...]

    def counts(self, images: int) -> list[int]:
        """The number of images per class: the shares rounded, the remainder added to the first."""
        counts = [round(share * images) for share in self.shares]
        counts[0] += images - sum(counts)
        return counts


def _kinds(*names: str) -> tuple[LesionKind, ...]:
    return tuple(LesionKind(*name.split()) for name in names)


# The shares are those of the paper's sets.
PHANTOM_SETS: dict[SetName, PhantomSet] = {
    "covid": PhantomSet(
        "lung", _kinds("hazy solid", "smooth solid", "spiculated solid"), (0.44, 0.28, 0.28)
    ),
    "lung": PhantomSet(
        "lung", _kinds("hazy speckled", "smooth septated", "lobulated target"), (0.35, 0.35, 0.30)
    ),
    "brain": PhantomSet(
        "brain",
        _kinds("smooth layered", "lobulated target", "spiculated hollow", "hazy speckled"),
        (0.23, 0.23, 0.29, 0.25),
    ),
    "breast": PhantomSet(
        "breast",
        _kinds("smooth septated", "lobulated solid", "spiculated hollow"),
        (0.56, 0.27, 0.17),
    ),
}


def draw_phantom(name: SetName, number: int, kind: LesionKind) -> Phantom:
    """Draw one image of a set; the same arguments give the same bits.

    Anatomy, sites, decoys, noise and devices are independent of the kind.

    Args:
        name: the set.
        number: of the image, from 0; images with the same number differ in the lesion only.
        kind: of the lesion.
    """
    chosen = PHANTOM_SETS[name]
    entropy = [number, list(PHANTOM_SETS).index(name), _STREAM]
    streams = np.random.default_rng(entropy).spawn(6)
    anatomy_rng, site_rng, decoy_rng, lesion_rng, acquisition_rng, distractor_rng = streams
    module = ANATOMIES[chosen.organ]
    anatomy = module.draw(anatomy_rng, SIDE)
    (site,) = place(site_rng, anatomy.room, 1, DIAMETERS)
    for _ in range(DECOYS):
        _paint_decoy(decoy_rng, anatomy, site, chosen.kinds)
    mask = paint(lesion_rng, anatomy.tissue, site, kind)
    image = module.acquire(acquisition_rng, anatomy.tissue * anatomy.gain + anatomy.shade)
    grey = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    coloured = np.repeat(grey[:, :, None], 3, axis=2)
    pictured = add_distractors(distractor_rng, coloured, chosen.organ, [site])
    return Phantom(pictured, mask[None], chosen.organ, kind)


def _paint_decoy(
    rng: np.random.Generator, anatomy: Anatomy, lesion: Site, kinds: tuple[LesionKind, ...]
) -> None:
    """Paint a translucent lesion of a random kind in the organ, away from the true lesion."""
    radius = rng.uniform(*DECOY_SIZE) * DIAMETERS[1] * SIDE / 2
    centres = np.argwhere(anatomy.room)
    for _ in range(_ATTEMPTS):
        row, column = map(float, centres[rng.integers(len(centres))])
        apart = math.hypot(row - lesion.row, column - lesion.column)
        if apart > 1.5 * (radius + lesion.radius):
            break
    else:
        return
    site = Site(row, column, radius, rng.uniform(-math.pi, math.pi), rng.uniform(0.8, 1.0))
    kind, opacity = kinds[rng.integers(len(kinds))], rng.uniform(*DECOY_OPACITY)
    before = anatomy.tissue.copy()
    paint(rng, anatomy.tissue, site, kind)
    anatomy.tissue[:] = before + opacity * (anatomy.tissue - before)


def write_set(out: Path, name: SetName, per_part: int = PER_PART) -> Path:
    """Draw a set into a folder: `dataset.csv`, `images/` and `masks/`.

    Args:
        out: a new or empty folder.
        name: the set.
        per_part: number of training images, and of test images.

    Returns:
        the table, which `read_dataset` reads.

    Raises:
        FileError: the folder is not empty or cannot be written to.
    """
    if out.exists() and any(out.iterdir()):
        raise FileError(str(out), "is not empty", "choose a new folder", code="file.exists")
    chosen = PHANTOM_SETS[name]
    kinds = [
        kind
        for kind, count in zip(chosen.kinds, chosen.counts(per_part), strict=True)
        for _ in range(count)
    ]
    images = [(part, kind) for part in ("train", "test") for kind in kinds]
    rows = []
    steps = track(images, f"drawing phantoms: {name}", console=Console(stderr=True))
    for number, (part, kind) in enumerate(steps):
        phantom = draw_phantom(name, number, kind)
        file = f"{part}-{number:04d}.png"
        save_picture(Image.fromarray(phantom.image), out / "images" / file)
        save_picture(Image.fromarray(phantom.mask).convert("L"), out / "masks" / file)
        rows.append((f"images/{file}", kind.name, part, f"masks/{file}"))
    text = io.StringIO()
    csv.writer(text).writerows([("path", "label", "split", "mask"), *rows])
    table = out / "dataset.csv"
    atomic_write(table, text.getvalue())
    return table
