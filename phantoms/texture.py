"""Building blocks of all anatomies: a posed coordinate grid, soft edges, noise fields, a blur.

Images are float32 (H, W) with 0 black and 1 white. Coordinates run from -1 to 1 over the image,
u to the right and v downwards, before the pose rotates, scales and shifts them.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Field = npt.NDArray[np.floating[Any]]  # float32 in every picture
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Anatomy:
    """An organ before any lesion, noise or label.

    Attributes:
        tissue: (H, W), replaced by a lesion where there is one.
        room: (H, W), where lesions may be placed.
        gain: (H, W), multiplies tissue and lesion: coil bias, acoustic shadow.
        shade: (H, W), added to both: structures in front of them in a projection.
    """

    tissue: Field
    room: Mask
    gain: Field
    shade: Field


def posed_grid(
    rng: np.random.Generator, size: int, angle: float, scale: tuple[float, float], shift: float
) -> tuple[Field, Field]:
    """Coordinates (u, v), each (H, W), rotated by at most `angle` radians, scaled and shifted."""
    turn = rng.uniform(-angle, angle)
    zoom = rng.uniform(*scale)
    dx, dy = rng.uniform(-shift, shift), rng.uniform(-shift, shift)
    line = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    x, y = line[None, :] - dx, line[:, None] - dy
    cos, sin = math.cos(turn) / zoom, math.sin(turn) / zoom
    return cos * x + sin * y, cos * y - sin * x


def step(depth: Field, width: float) -> Field:
    """A soft edge: 0 where depth < -width / 2, 1 where depth > width / 2, smoothstep between."""
    # In place: it runs some twenty times per phantom, and new memory costs more than the sums.
    t = depth * (1 / width)
    t += 0.5
    np.clip(t, 0, 1, out=t)
    slope = t * -2
    slope += 3
    t *= t
    t *= slope
    return t


def ellipse(u: Field, v: Field, radius_u: float, radius_v: float) -> Field:
    """Elliptical radius of every point: 0 at the centre, 1 on the ellipse."""
    return np.sqrt((u * (1 / radius_u)) ** 2 + (v * (1 / radius_v)) ** 2)


def blend(image: Field, level: Field | float, alpha: Field) -> Field:
    """Blend `level` over the image, opaque where alpha is 1."""
    change = level - image
    change *= alpha
    change += image
    return change


def stretch(coarse: Field, shape: tuple[int, int]) -> Field:
    """A coarse field (h, w) interpolated bicubically to shape (H, W)."""
    resized = Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.array(resized)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> Field:
    """Gaussian noise of about unit variance, with features of size image side / cells."""
    return stretch(rng.standard_normal(cells, dtype=np.float32), shape)


def fractal_noise(rng: np.random.Generator, size: int, cells: int, octaves: int) -> Field:
    """A sum of `smooth_noise` at doubling frequency and halving amplitude."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        fine = cells << octave
        total += smooth_noise(rng, (size, size), (fine, fine)) * 0.5**octave
    return total


def blur(image: Field, amount: float) -> Field:
    """A separable three-tap blur (amount / 4, 1 - amount / 2, amount / 4), edges repeated."""
    side, centre = amount / 4, 1 - amount / 2
    padded = np.pad(image, 1, mode="edge")
    rows = centre * padded[1:-1] + side * (padded[:-2] + padded[2:])
    return centre * rows[:, 1:-1] + side * (rows[:, :-2] + rows[:, 2:])


def window(rng: np.random.Generator, image: Field) -> Field:
    """A display window of random gamma and level, without clipping at either end."""
    gamma = rng.uniform(0.85, 1.15)
    low, high = rng.uniform(0.0, 0.06), rng.uniform(0.9, 1.0)
    curve: Field = np.clip(image, 0, 1) ** gamma
    return low + (high - low) * curve


def rician(rng: np.random.Generator, image: Field, sigma: float) -> Field:
    """Magnitude MRI noise: the modulus of the image plus complex Gaussian noise.

    Gudbjartsson and Patz, "The Rician distribution of noisy MRI data", 1995.
    """
    real, imaginary = rng.standard_normal((2, *image.shape), dtype=np.float32) * sigma
    magnitude: Field = np.hypot(image + real, imaginary)
    return magnitude


def poisson(rng: np.random.Generator, image: Field, photons: float) -> Field:
    """Photon noise in its Gaussian limit, with `photons` counts per white pixel."""
    counts = np.maximum(image, 0.02) * (1 / photons)
    return image + np.sqrt(counts) * rng.standard_normal(image.shape, dtype=np.float32)


def speckle(rng: np.random.Generator, image: Field, grain: tuple[float, float]) -> Field:
    """Fully developed ultrasound speckle: the image times a Rayleigh amplitude of mean 1.

    A square root of the amplitude approximates the log compression of a scanner's display.

    Args:
        rng: the random generator.
        image: (H, W).
        grain: height and width of a speckle in pixels.
    """
    height, width = image.shape
    cells = (max(2, round(height / grain[0])), max(2, round(width / grain[1])))
    real = smooth_noise(rng, (height, width), cells)
    imaginary = smooth_noise(rng, (height, width), cells)
    return image * np.sqrt(np.hypot(real, imaginary) * 0.7 + 0.2)
