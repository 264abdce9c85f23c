"""An axial brain MRI slice."""

import math

import numpy as np

from medfocus.phantoms.texture import (
    Anatomy,
    Field,
    blend,
    blur,
    ellipse,
    fractal_noise,
    posed_grid,
    rician,
    smooth_noise,
    step,
    window,
)

# Levels of (scalp, skull, cerebrospinal fluid, grey matter, white matter) in T1, T2 and FLAIR.
_WEIGHTINGS = (
    (0.85, 0.06, 0.12, 0.42, 0.62),
    (0.60, 0.05, 0.88, 0.52, 0.36),
    (0.70, 0.05, 0.07, 0.52, 0.41),
)


def draw(rng: np.random.Generator, size: int) -> Anatomy:
    """A head with skull, folded cortex, deep nuclei, ventricles and midline, in a random pose."""
    u, v = posed_grid(rng, size, math.radians(28), (0.92, 1.06), 0.06)
    edge = 3.0 / size
    scalp, skull, fluid, grey, white = _WEIGHTINGS[rng.integers(len(_WEIGHTINGS))]
    wobble = smooth_noise(rng, (size, size), (4, 4)) * 0.012
    # A head is broader behind the ears than at the forehead.
    head = ellipse(u, v, rng.uniform(0.72, 0.82), rng.uniform(0.86, 0.94)) * (
        1 - rng.uniform(0.02, 0.07) * v
    )
    head += wobble
    folds = smooth_noise(rng, (size, size), (15, 15))
    folds += 0.4 * smooth_noise(rng, (size, size), (28, 28))
    sulcus = np.abs(folds)
    thickness = rng.uniform(0.035, 0.06)

    image: Field = np.full((size, size), 0.015, np.float32)
    image = blend(image, scalp, step(1 - head, edge))
    image = blend(image, skull, step(1 - thickness - head, edge))
    image = blend(image, fluid, step(1 - 2 * thickness - head, edge))
    cortex = 1 - 2.3 * thickness - rng.uniform(0.01, 0.05)
    inside = step(cortex - head, edge)
    image = blend(image, grey, inside)
    # White matter is everything away from the surface and from the sulci.
    burial = cortex - head
    image = blend(image, white, inside * step(burial * 3.2 + sulcus * 0.55 - 0.42, 0.12))
    groove = step(0.13 - sulcus - burial * rng.uniform(0.45, 0.7), 0.08)
    image = blend(image, fluid, inside * groove * rng.uniform(0.6, 0.9))
    image = _deep_structures(rng, image, u, v, (fluid, grey), edge)
    image = image * (1 + 0.05 * fractal_noise(rng, size, 12, 3) * inside)
    bias = 1 + 0.08 * smooth_noise(rng, (size, size), (3, 3))
    return Anatomy(image, head < cortex - 0.03, bias, np.zeros_like(image))


def _deep_structures(
    rng: np.random.Generator,
    image: Field,
    u: Field,
    v: Field,
    levels: tuple[float, float],
    edge: float,
) -> Field:
    """Midline fissure, basal ganglia, thalami and lateral ventricles, symmetric about u = 0."""
    fluid, grey = levels
    u = u + 0.012 * np.sin(v * 5 + rng.uniform(0, 6))
    across = np.abs(u)
    high = v - rng.uniform(-0.08, 0.04)
    lentiform = ellipse(across - 0.25, high + 0.04, 0.08, 0.17)
    thalamus = ellipse(across - 0.1, high - 0.13, 0.08, 0.1)
    for nucleus in (lentiform, thalamus):
        image = blend(image, grey, 0.8 * step(1 - nucleus, 0.25))
    # The fissure separates the hemispheres in front and behind, where the callosum does not join.
    fissure = step(0.012 - across, 2 * edge) * step(np.abs(high) - 0.36, 0.1)
    image = blend(image, fluid, 0.85 * fissure * step(0.80 - np.abs(v), 0.05))
    width, length = rng.uniform(0.035, 0.075), rng.uniform(0.26, 0.36)
    # Horns that bend outwards at both ends.
    bend = across - 0.05 - width - 0.9 * high * high
    ventricle = ellipse(bend, high, width, length)
    image = blend(image, fluid, step((1 - ventricle) * width, 2 * edge))
    third = ellipse(u, high - 0.16, 0.016, 0.1)
    return blend(image, fluid, step((1 - third) * 0.016, 2 * edge))


def acquire(rng: np.random.Generator, image: Field) -> Field:
    """Simulate the acquisition: point spread, Rician noise, window."""
    image = blur(image, rng.uniform(0.2, 1.0))
    return window(rng, rician(rng, image, rng.uniform(0.012, 0.045)))
