"""Lesions: their sites, outlines (by margin) and interiors."""

import math
from dataclasses import dataclass

import numpy as np

from medfocus.phantoms.catalogue import LesionKind
from medfocus.phantoms.texture import Field, Mask, blend, smooth_noise, step

# A haze fades out at this multiple of the lesion's radius; other objects keep this distance.
REACH = 1.4

# Nothing can be visibly darker than this tissue.
_DARK_TISSUE = 0.3

_DIAMETERS = {1: (0.19, 0.335), 2: (0.18, 0.26)}  # share of the image side, by number of lesions
_BEARINGS = np.linspace(-math.pi, math.pi, 721, dtype=np.float32)


@dataclass(frozen=True)
class Site:
    """The site of a lesion of any kind: a disc in pixels, and an ellipse's rotation and axes."""

    row: float
    column: float
    radius: float
    turn: float
    flattening: float


def place(
    rng: np.random.Generator,
    room: Mask,
    lesions: int,
    diameters: tuple[float, float] | None = None,
) -> list[Site]:
    """Choose sites whose discs are inside `room` (H, W) and whose hazes do not overlap.

    `diameters` are the smallest and the largest, as shares of the image's side.
    """
    size = room.shape[0]
    low, high = (diameter * size / 2 for diameter in diameters or _DIAMETERS[lesions])
    radii = rng.uniform(low, high, lesions)
    free = np.argwhere(room)
    while True:
        discs: list[tuple[float, float, float]] = []
        for radius in radii:
            centres = free[rng.integers(len(free), size=64)]
            for row, column in centres[_fits(room, centres, radius)]:
                if all(
                    math.hypot(row - r, column - c) > REACH * (radius + other)
                    for r, c, other in discs
                ):
                    discs.append((float(row), float(column), float(radius)))
                    break
        if len(discs) == lesions:
            return [
                Site(*disc, rng.uniform(-math.pi, math.pi), rng.uniform(0.8, 1.0)) for disc in discs
            ]
        # A lesion too large for the anatomy shrinks until it fits.
        radii = np.maximum(radii * 0.95, low)


def _fits(room: Mask, centres: np.ndarray, radius: float) -> Mask:
    """Whether the disc's rim around each centre (N, 2) is inside `room`; (N,)."""
    bearings = np.arange(24) * (2 * math.pi / 24)
    rim = np.stack([np.sin(bearings), np.cos(bearings)], axis=-1) * radius  # (24, 2)
    points = np.rint(centres[:, None] + rim).astype(int)  # (N, 24, 2)
    within = ((points >= 0) & (points < room.shape[0])).all(axis=-1)
    rows, columns = np.clip(points, 0, room.shape[0] - 1).transpose(2, 0, 1)
    fits: Mask = (within & room[rows, columns]).all(axis=-1)
    return fits


def paint(rng: np.random.Generator, tissue: Field, site: Site, kind: LesionKind) -> Mask:
    """Paint a lesion into `tissue` (H, W) in place.

    Returns:
        Its mask (H, W): where it is more than half opaque.
    """
    size = tissue.shape[0]
    reach = math.ceil(REACH * site.radius) + 1
    top, left = max(0, int(site.row) - reach), max(0, int(site.column) - reach)
    patch = np.s_[top : int(site.row) + reach + 1, left : int(site.column) + reach + 1]
    height, width = tissue[patch].shape
    y = ((np.arange(top, top + height, dtype=np.float32) - site.row) / site.radius)[:, None]
    x = ((np.arange(left, left + width, dtype=np.float32) - site.column) / site.radius)[None, :]
    cos, sin = math.cos(site.turn), math.sin(site.turn)
    along = (cos * x + sin * y).astype(np.float32)
    aside = ((cos * y - sin * x) / site.flattening).astype(np.float32)
    radius = np.hypot(along, aside)
    bearing = np.arctan2(aside, along)

    outline, core = _outlines(rng, kind.margin)
    pixel = size / 256 / site.radius  # one pixel of a 256-pixel image, in lesion radii
    edge = _lookup(outline, bearing)
    if kind.margin == "hazy":
        frayed = radius + 0.05 * np.clip(smooth_noise(rng, (height, width), (9, 9)), -1.5, 1.5)
        alpha = step(edge - frayed, 0.75)
    else:
        alpha = step(edge - radius, 3 * pixel)
    around = float(np.median(tissue[patch][radius < 1]))
    # A mass displaces structures. Without this, a dark lesion would merge with a dark ventricle.
    displaced = 0.75 * step(1.2 - radius, 0.35)
    ground = blend(tissue[patch], around, displaced)
    depth = radius / _lookup(core, bearing)
    levels = _interior(rng, kind.interior, depth, (along, aside), (x, y), around, 3 * pixel)
    levels = levels + 0.04 * smooth_noise(rng, (height, width), (12, 12))
    contrast = rng.uniform(0.75, 1.0)
    tissue[patch] = blend(ground, around + contrast * (levels - around), alpha)
    mask = np.zeros(tissue.shape, np.bool_)
    mask[patch] = alpha > 0.5
    return mask


def _lookup(table: Field, bearing: Field) -> Field:
    return np.interp(bearing, _BEARINGS, table).astype(np.float32)


def _outlines(rng: np.random.Generator, margin: str) -> tuple[Field, Field]:
    """Outline and core by bearing, in lesion radii; the outline's maximum is the radius."""
    phase = rng.uniform(0, 2 * math.pi)
    wobble = 0.04 * np.sin(2 * _BEARINGS + phase) + 0.03 * np.sin(3 * _BEARINGS - 2 * phase)
    if margin == "lobulated":
        lobes = int(rng.integers(4, 8))
        bearings = _spread(rng, lobes)
        offset = rng.uniform(0.44, 0.56, lobes)
        girth = rng.uniform(0.36, 0.5, lobes) if lobes < 6 else rng.uniform(0.27, 0.4, lobes)
        # Polar equation of discs with centres at `offset`; their union has notches.
        turn = _BEARINGS[:, None] - bearings
        inside = girth**2 - (offset * np.sin(turn)) ** 2
        discs = offset * np.cos(turn) + np.sqrt(np.maximum(inside, 0))
        outline = np.where(inside > 0, discs, 0).max(axis=1)
        outline = np.maximum(outline, 0.6 + wobble)
    elif margin == "spiculated":
        core = 0.62 + wobble
        spikes = int(rng.integers(10, 15))
        bearings = _spread(rng, spikes)
        lengths = rng.uniform(0.22, 0.42, spikes)
        widths = rng.uniform(0.13, 0.19, spikes)
        distance = np.abs((_BEARINGS[:, None] - bearings) % (2 * math.pi) - math.pi)
        spicules = (lengths * np.maximum(1 - distance / widths, 0)).max(axis=1)
        outline = core + spicules
        scale = 1 / outline.max()
        return (outline * scale).astype(np.float32), (core * scale).astype(np.float32)
    else:
        outline = 1 + (wobble if margin == "hazy" else 0.4 * wobble)
    outline = (outline / outline.max()).astype(np.float32)
    if margin == "hazy":
        outline = outline * np.float32(0.93)
    return outline, outline


def _spread(rng: np.random.Generator, count: int) -> Field:
    """Bearings over the whole circle, approximately evenly spaced."""
    places = np.arange(count) + rng.uniform(-0.25, 0.25, count)
    return ((places / count + rng.random()) * (2 * math.pi)).astype(np.float32)


def _interior(
    rng: np.random.Generator,
    interior: str,
    depth: Field,
    turned: tuple[Field, Field],
    upright: tuple[Field, Field],
    around: float,
    soft: float,
) -> Field:
    """Levels inside a lesion.

    Args:
        rng: the lesion's generator.
        interior: one of `INTERIORS`.
        depth: 0 at the centre, 1 at the edge of the core.
        turned: coordinates in lesion radii along the lesion's own axes.
        upright: the same along the image's axes.
        around: median level of the tissue that the lesion replaces.
        soft: width of an inner edge, in lesion radii.
    """
    body, accent = _tones(rng, around)
    flat = np.full_like(depth, body)
    if interior == "solid":
        return flat
    if interior == "hollow":
        wall = rng.uniform(0.56, 0.64)
        return blend(np.full_like(depth, 0.97), 0.05, step(wall - depth, soft))
    if interior == "speckled":
        ground = 0.5 if around < _DARK_TISSUE else 0.08
        return blend(np.full_like(depth, ground), 1.0, _grains(rng, depth, turned, soft))
    if interior == "septated":
        along, aside = turned
        spacing = rng.uniform(0.42, 0.5)
        wave = along + 0.07 * np.sin(3 * aside + rng.uniform(0, 6)) + rng.uniform(0, spacing)
        offset = np.abs(wave - spacing * np.round(wave / spacing))
        return blend(flat, accent, step(0.09 - offset, soft))
    if interior == "layered":
        tilt = rng.uniform(-0.4, 0.4)
        x, y = upright
        return blend(flat, accent, step(y + tilt * x - rng.uniform(-0.12, 0.12), soft))
    ring = step(0.7 - depth, soft) * step(depth - 0.34, soft)
    return blend(flat, accent, ring)


def _tones(rng: np.random.Generator, around: float) -> tuple[float, float]:
    """Two levels that differ from the surrounding tissue and from each other, in random order."""
    if around < _DARK_TISSUE:
        low, high = around + 0.27, 0.9
        return high, low
    low, high = max(around - 0.4, 0.05), min(around + 0.4, 0.97)
    return (low, high) if rng.random() < 0.5 else (high, low)


def _grains(
    rng: np.random.Generator, depth: Field, turned: tuple[Field, Field], soft: float
) -> Field:
    """Opacity of calcifications, in a sunflower arrangement with jitter."""
    count = int(rng.integers(9, 15))
    ranks = np.sqrt((np.arange(count) + 0.5) / count)
    bearings = np.arange(count) * (math.pi * (3 - math.sqrt(5))) + rng.uniform(0, 6)
    extent = float(1 / np.max(depth / np.maximum(np.hypot(*turned), 1e-3)))  # thinnest core radius
    opacity = np.zeros_like(depth)
    for rank, bearing in zip(ranks, bearings, strict=True):
        distance = rank * 0.82 * extent + rng.uniform(-0.05, 0.05)
        grain = rng.uniform(0.09, 0.13) * extent
        here = np.hypot(
            turned[0] - distance * math.cos(bearing), turned[1] - distance * math.sin(bearing)
        )
        opacity = np.maximum(opacity, step(grain - here, soft))
    return opacity
