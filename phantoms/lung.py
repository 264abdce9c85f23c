"""A frontal chest X-ray."""

import math

import numpy as np

from medfocus.phantoms.texture import (
    Anatomy,
    Field,
    blend,
    blur,
    ellipse,
    fractal_noise,
    poisson,
    posed_grid,
    smooth_noise,
    step,
    window,
)


def draw(rng: np.random.Generator, size: int) -> Anatomy:
    """A thorax with two lungs, heart, mediastinum, diaphragm, spine, ribs and clavicles."""
    u, v = posed_grid(rng, size, math.radians(9), (0.95, 1.1), 0.05)
    across = np.abs(u)
    # The shoulders slope down from the neck; the flanks are nearly straight.
    torso = np.minimum(rng.uniform(0.9, 1.0) - across, 0.9 + v - 0.55 * np.maximum(across - 0.2, 0))
    soft_tissue = rng.uniform(0.46, 0.56)
    image = blend(np.full((size, size), 0.02, np.float32), soft_tissue, step(torso, 0.08))
    lungs = _lungs(rng, u, v)
    image = blend(image, rng.uniform(0.12, 0.22), step(lungs, 0.03))
    inside = step(lungs, 0.1)
    hilum = np.exp(-14 * ((across - 0.17) ** 2 + 0.6 * (v - 0.02) ** 2))
    vessels = np.abs(smooth_noise(rng, (size, size), (20, 20)))
    vessels = np.maximum(0.35 - vessels, 0) * (0.10 + 0.5 * hilum)
    image = image + inside * (vessels + 0.1 * hilum)
    image = image + 0.02 * fractal_noise(rng, size, 8, 4) * step(torso, 0.08)
    return Anatomy(image, lungs > 0.02, np.ones_like(image), _bones(rng, u, v, torso))


def _lungs(rng: np.random.Generator, u: Field, v: Field) -> Field:
    """Approximate depth inside either lung, in coordinate units; positive inside."""
    across = np.abs(u)
    top, bottom = rng.uniform(-0.82, -0.74), rng.uniform(0.52, 0.68)
    right = u < 0
    # The liver raises the right half of the diaphragm, which is on the left of the image.
    floor = bottom - np.where(right, rng.uniform(0.02, 0.08), 0.0).astype(np.float32)
    dome = floor + rng.uniform(0.5, 1.0) * (across - 0.38) ** 2 - v
    # The chest wall widens from the apex downwards.
    height = np.clip((v - top) / 0.75, 0, 1)
    outer = rng.uniform(0.76, 0.84) * np.sqrt(height * (2 - height)) - across
    inner = across - rng.uniform(0.10, 0.14) - 0.05 * (v + 0.1) ** 2
    heart = ellipse(u - rng.uniform(0.08, 0.14), v - bottom + 0.2, rng.uniform(0.26, 0.33), 0.32)
    depth: Field = np.minimum(np.minimum(dome, outer), np.minimum(inner, (heart - 1) * 0.3))
    return depth + 0.008 * smooth_noise(rng, u.shape, (7, 7))


def _bones(rng: np.random.Generator, u: Field, v: Field, torso: Field) -> Field:
    """Ribs, clavicles and spine: opacity added to everything in front of and behind them."""
    across = np.abs(u)
    cage = step(0.86 - across, 0.06) * step(torso, 0.06) * step(v + 0.85, 0.1)
    pitch, phase = rng.uniform(0.19, 0.24), rng.uniform(0, 1)
    strength = rng.uniform(0.07, 0.13)
    # Posterior ribs rise from the spine and fall towards the flank; anterior ones only fall.
    posterior = v + 0.30 * across - 0.85 * across * across
    anterior = v - 0.55 * across
    bones = strength * cage * _bands(posterior / pitch + phase, 0.30) * step(across - 0.08, 0.04)
    bones += 0.5 * strength * cage * _bands(anterior / pitch, 0.26) * step(across - 0.35, 0.2)
    lift = rng.uniform(0.1, 0.25)
    clavicle = np.abs(v + 0.66 + lift * across) - 0.03
    bones += 0.13 * step(-clavicle, 0.02) * step(across - 0.07, 0.03) * step(0.72 - across, 0.05)
    vertebrae = 0.75 + 0.25 * np.cos(v * (2 * math.pi / 0.17))
    bones += 0.12 * step(0.085 - across, 0.03) * vertebrae * step(torso, 0.06)
    return bones


def _bands(phase: Field, width: float) -> Field:
    """Bands at every integer phase, brighter at both edges like the projection of a hollow bone."""
    offset = np.abs(phase - np.round(phase))
    band = step(width / 2 - offset, 0.06)
    return band * (0.75 + 0.5 * step(offset - width / 2 + 0.07, 0.06))


def acquire(rng: np.random.Generator, image: Field) -> Field:
    """Simulate the acquisition: focal blur, photon noise, window."""
    image = blur(image, rng.uniform(0.3, 1.0))
    return window(rng, poisson(rng, image, 10 ** rng.uniform(2.6, 3.3)))
