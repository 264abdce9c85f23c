"""A breast ultrasound image from a linear probe, with the skin at the top."""

import math

import numpy as np

from medfocus.phantoms.texture import (
    Anatomy,
    Field,
    Mask,
    blend,
    fractal_noise,
    posed_grid,
    smooth_noise,
    speckle,
    step,
    window,
)


def draw(rng: np.random.Generator, size: int) -> Anatomy:
    """Skin, fat lobules with ligaments, glandular tissue and muscle under the probe."""
    shape = (size, size)
    u, v = posed_grid(rng, size, math.radians(9), (0.97, 1.1), 0.04)
    waves = smooth_noise(rng, (3, size), (3, 6))
    skin = -0.9 + 0.08 * (u * rng.uniform(-0.6, 0.6)) + 0.015 * waves[0]
    gland_top = skin + rng.uniform(0.3, 0.5) + 0.09 * waves[1]
    muscle_top = rng.uniform(0.55, 0.72) + 0.05 * waves[2] + 0.06 * u * rng.uniform(-1, 1)

    lobules = smooth_noise(rng, shape, (9, 7))
    ligaments = step(0.10 - np.abs(lobules), 0.12)
    image = 0.30 + 0.035 * lobules
    image = blend(image, 0.58, 0.6 * ligaments)
    streaks = smooth_noise(rng, shape, (26, 8)) + 0.6 * smooth_noise(rng, shape, (40, 16))
    gland = rng.uniform(0.41, 0.48) + 0.055 * streaks
    image = blend(image, gland, step(v - gland_top, 0.1))
    fibres = np.sin(v * 75 + 3 * smooth_noise(rng, shape, (4, 3)))
    muscle = 0.27 + 0.10 * np.maximum(fibres, 0)
    image = blend(image, muscle, step(v - muscle_top, 0.03))
    fascia = step(0.016 - np.abs(v - muscle_top), 0.02)
    image = blend(image, 0.8, 0.85 * fascia)
    image = blend(image, 0.78, step(0.035 - np.abs(v - skin), 0.02))
    image = blend(image, 0.05, step(skin - 0.06 - v, 0.03))
    image = image * (1 + 0.06 * fractal_noise(rng, size, 10, 2))

    room = (v > skin + 0.08) & (v < muscle_top - 0.03)
    margin = _frame(rng, size)
    return Anatomy(
        image, room & margin, _attenuation(rng, u, v) * margin, np.zeros(shape, np.float32)
    )


def _frame(rng: np.random.Generator, size: int) -> Mask:
    """The part of the image that the scan fills; the screen around it is black."""
    left, right, bottom = (rng.uniform(0, 0.07) * (rng.random() < 0.5) for _ in range(3))
    frame = np.zeros((size, size), np.bool_)
    frame[: size - int(bottom * size), int(left * size) : size - int(right * size)] = True
    return frame


def _attenuation(rng: np.random.Generator, u: Field, v: Field) -> Field:
    """Sound lost with depth, and shadows below ligaments and poor contact."""
    gain = 1.06 - rng.uniform(0.0, 0.16) * (v + 1)
    for _ in range(rng.integers(0, 4)):
        centre, width = rng.uniform(-0.9, 0.9), rng.uniform(0.05, 0.16)
        onset = rng.uniform(-0.8, 0.3)
        column = step(width - np.abs(u - centre - 0.1 * v * centre), width)
        gain = gain * (1 - rng.uniform(0.1, 0.28) * column * step(v - onset, 0.3))
    return gain


def acquire(rng: np.random.Generator, image: Field) -> Field:
    """Simulate the acquisition: speckle that is wider than it is deep, and a window."""
    scale = image.shape[0] / 256
    grain = (rng.uniform(1.3, 1.9) * scale, rng.uniform(1.9, 3.0) * scale)
    return window(rng, 1.08 * speckle(rng, image, grain))
