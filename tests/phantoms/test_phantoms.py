"""Phantoms are reproducible, their masks are right, and only the lesion depends on the kind."""

import itertools
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt

from medfocus.errors import FileError, InputError
from medfocus.phantoms import (
    DEMO_KINDS,
    FEWSHOT_KINDS,
    INTERIORS,
    KINDS,
    MARGINS,
    ORGANS,
    PRETRAINING_KINDS,
    LesionKind,
    brain,
    breast,
    caption,
    lung,
    make_phantom,
)
from medfocus.phantoms.__main__ import main
from medfocus.phantoms.distractors import add_distractors
from medfocus.phantoms.image_folder import write_image_folder
from medfocus.phantoms.lesions import Site, paint, place
from tests.errors import refuses

MODULES = {"brain": brain, "lung": lung, "breast": breast}


def name_of(value: object) -> str | None:
    return value.name if isinstance(value, LesionKind) else None


def test_catalogue() -> None:
    assert len(set(KINDS)) == len(MARGINS) * len(INTERIORS) == 24
    assert len(PRETRAINING_KINDS) == 18
    assert len(FEWSHOT_KINDS) == 6
    assert set(PRETRAINING_KINDS) | set(FEWSHOT_KINDS) == set(KINDS)
    margins = Counter(kind.margin for kind in PRETRAINING_KINDS)
    interiors = Counter(kind.interior for kind in PRETRAINING_KINDS)
    assert min(margins[margin] for margin in MARGINS) >= 3
    assert min(interiors[interior] for interior in INTERIORS) >= 2
    assert len(DEMO_KINDS) == 4
    assert set(DEMO_KINDS) <= set(FEWSHOT_KINDS)
    assert len({kind.margin for kind in DEMO_KINDS}) == 4
    assert len({kind.interior for kind in DEMO_KINDS}) == 4


def test_caption() -> None:
    kind = LesionKind("spiculated", "hollow")
    assert kind.name == "spiculated hollow lesion"
    assert caption(kind, "brain") == "a spiculated hollow lesion in a brain MRI slice"
    assert caption(kind, "lung") == "a spiculated hollow lesion in a chest X-ray"
    assert caption(kind, "breast") == "a spiculated hollow lesion in a breast ultrasound"
    assert caption(None, "brain") == "a brain MRI slice with no lesion"
    with refuses(InputError, "input.invalid", "liver"):
        caption(kind, "liver")


@pytest.mark.parametrize("organ", ORGANS)
@pytest.mark.parametrize("lesions", [0, 1, 2])
def test_the_same_arguments_give_the_same_image(organ: str, lesions: int) -> None:
    kind = LesionKind("hazy", "septated") if lesions else None
    first, again = (make_phantom(11, organ, kind, lesions) for _ in range(2))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.lesion_masks, again.lesion_masks)
    other = make_phantom(12, organ, kind, lesions)
    assert (first.image != other.image).mean() > 0.5


@pytest.mark.parametrize("organ", ORGANS)
@pytest.mark.parametrize(("lesions", "size"), [(0, 64), (1, 100), (2, 256)])
def test_shapes(organ: str, lesions: int, size: int) -> None:
    kind = KINDS[0] if lesions else None
    phantom = make_phantom(3, organ, kind, lesions, size)
    assert phantom.image.shape == (size, size, 3)
    assert phantom.image.dtype == np.uint8
    assert phantom.lesion_masks.shape == (lesions, size, size)
    assert phantom.lesion_masks.dtype == np.bool_
    assert (phantom.organ, phantom.kind) == (organ, kind)
    np.testing.assert_array_equal(phantom.mask, phantom.lesion_masks.sum(axis=0) == 1)


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
@pytest.mark.parametrize("organ", ORGANS)
def test_masks_have_a_diameter_within_the_limits(organ: str, kind: LesionKind) -> None:
    for seed in range(4):
        for mask in make_phantom(seed, organ, kind, lesions=1 + seed % 2).lesion_masks:
            assert 0.14 <= feret_diameter(mask) / 256 <= 0.34


def feret_diameter(mask: npt.NDArray[np.bool_]) -> float:
    """Longest width of the mask over all directions, in pixels."""
    angles = np.linspace(0, np.pi, 90)
    widths = np.ptp(np.argwhere(mask) @ np.stack([np.sin(angles), np.cos(angles)]), axis=0)
    return float(widths.max()) + 1


@pytest.mark.parametrize(("organ", "module"), MODULES.items(), ids=ORGANS)
def test_lesions_are_inside_the_organ(organ: str, module: ModuleType) -> None:
    for seed, kind in enumerate(KINDS):
        rng = np.random.default_rng(seed)
        anatomy = module.draw(rng, 256)
        assert anatomy.tissue.dtype == anatomy.gain.dtype == anatomy.shade.dtype == np.float32
        for site in place(rng, anatomy.room, 1 + seed % 2):
            mask = paint(rng, anatomy.tissue, site, kind)
            assert mask.any()
            assert not (mask & ~anatomy.room).any(), f"{organ} {seed}"


def test_sites_are_inside_the_room_and_apart() -> None:
    room = np.zeros((256, 256), np.bool_)
    room[30:110, 20:120] = room[150:240, 100:190] = True
    rows, columns = np.mgrid[:256, :256]
    corners = set()
    for seed in range(200):
        first, second = place(np.random.default_rng(seed), room, 2)
        for site in (first, second):
            disc = np.hypot(rows - site.row, columns - site.column) <= site.radius - 1
            assert room[disc].all()
            corners.add(site.row > 130)
        between = np.hypot(first.row - second.row, first.column - second.column)
        assert between > first.radius + second.radius
    assert corners == {False, True}


@pytest.mark.parametrize("organ", ORGANS)
@pytest.mark.parametrize("lesions", [1, 2])
def test_only_the_lesion_depends_on_the_kind(organ: str, lesions: int) -> None:
    phantoms = [make_phantom(5, organ, kind, lesions) for kind in KINDS]
    # A haze ends 0.4 radii, at most 18 pixels, beyond the outline; blur and rounding add a few.
    union = np.logical_or.reduce([phantom.mask for phantom in phantoms])
    elsewhere = distance_transform_edt(~union) > 22
    assert elsewhere.mean() > 0.5
    for phantom in phantoms[1:]:
        np.testing.assert_array_equal(phantom.image[elsewhere], phantoms[0].image[elsewhere])
    if lesions == 1:
        healthy = make_phantom(5, organ, None, 0)
        np.testing.assert_array_equal(healthy.image[elsewhere], phantoms[0].image[elsewhere])


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
@pytest.mark.parametrize("organ", ORGANS)
def test_lesions_are_visible(organ: str, kind: LesionKind) -> None:
    for seed in range(3):
        phantom, healthy = make_phantom(seed, organ, kind), make_phantom(seed, organ, None, 0)
        change = np.abs(phantom.image[..., 0].astype(int) - healthy.image[..., 0])
        assert (change[phantom.mask] > 16).mean() > 0.6
        assert change[phantom.mask].mean() > 30


@pytest.mark.parametrize("organ", ORGANS)
def test_kinds_differ_at_112_pixels(organ: str) -> None:
    thumbnails = {}
    for kind in KINDS:
        phantom = make_phantom(8, organ, kind)
        small = Image.fromarray(phantom.image).convert("L").resize((112, 112))
        thumbnails[kind] = np.asarray(small, dtype=float)
    for one, other in itertools.combinations(KINDS, 2):
        change = np.abs(thumbnails[one] - thumbnails[other])
        assert (change > 25).sum() > 40, (one.name, other.name)


@pytest.mark.parametrize("organ", ORGANS)
def test_distractors_do_not_overlap_lesions(organ: str) -> None:
    blank = np.zeros((256, 256, 3), np.uint8)
    sites = [Site(70, 80, 40, 0, 1), Site(190, 170, 20, 0, 1)]
    rows, columns = np.mgrid[:256, :256]
    lesions = np.logical_or.reduce(
        [np.hypot(rows - site.row, columns - site.column) <= 1.4 * site.radius for site in sites]
    )
    drawn = np.stack(
        [
            add_distractors(np.random.default_rng(seed), blank, organ, sites).any(axis=-1)
            for seed in range(100)
        ]
    )
    assert not drawn[:, lesions].any()
    assert 0.5 < drawn.any(axis=(1, 2)).mean() < 1
    assert not blank.any()


@pytest.mark.parametrize(
    ("arguments", "item"),
    [
        ((0, "liver", KINDS[0]), "organ 'liver'"),
        ((-1, "brain", KINDS[0]), "seed -1"),
        ((0, "brain", KINDS[0], 3), "lesions 3"),
        ((0, "brain", None), "kind None with 1 lesions"),
        ((0, "brain", KINDS[0], 0), "with 0 lesions"),
        ((0, "brain", KINDS[0], 1, 63), "size 63"),
    ],
)
def test_invalid_arguments_are_refused(arguments: tuple[Any, ...], item: str) -> None:
    with refuses(InputError, "input.invalid", item):
        make_phantom(*arguments)


def test_unknown_kinds_are_refused() -> None:
    with refuses(InputError, "input.invalid", "margin 'fuzzy'"):
        LesionKind("fuzzy", "solid")
    with refuses(InputError, "input.invalid", "interior 'empty'"):
        LesionKind("smooth", "empty")


def test_the_command_writes_an_image_folder(tmp_path: Path) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    main([str(images), "--kinds", "demo", "--per-class", "4", "--seed", "7", "--masks", str(masks)])
    classes = sorted(kind.name.replace(" ", "-") for kind in DEMO_KINDS)
    names = ["brain-0000.png", "brain-0003.png", "breast-0002.png", "lung-0001.png"]
    expected = [Path(folder) / name for folder in classes for name in names]
    for root in (images, masks):
        assert sorted(path.relative_to(root) for path in root.rglob("*.png")) == expected
    contents = {(images / name).read_bytes() for name in expected}
    assert len(contents) == len(expected)
    # The third image of the demonstration's second class is number 4 + 2 of its seed's set.
    name = f"{DEMO_KINDS[1].name.replace(' ', '-')}/breast-0002.png"
    phantom = make_phantom(7_000_006, "breast", DEMO_KINDS[1])
    np.testing.assert_array_equal(np.asarray(Image.open(images / name)), phantom.image)
    np.testing.assert_array_equal(
        np.asarray(Image.open(masks / name)), phantom.mask * np.uint8(255)
    )


def test_unusable_folders_and_numbers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    new = tmp_path / "new"
    with refuses(FileError, "file.exists", "full"):
        write_image_folder(tmp_path / "full", DEMO_KINDS, 4, 0)
    with refuses(InputError, "input.invalid", "masks"):
        write_image_folder(new, DEMO_KINDS, 4, 0, new / "masks")
    with refuses(InputError, "input.invalid", "0 images"):
        write_image_folder(new, DEMO_KINDS, 0, 0)
    assert not new.exists()
    with refuses(FileError, "file.unwritable", "notes.txt"):
        write_image_folder(tmp_path / "full" / "notes.txt" / "new", DEMO_KINDS, 1, 0)


def test_the_command_exits_with_the_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path)])
    assert str(caught.value).startswith(f"error: {tmp_path}")
