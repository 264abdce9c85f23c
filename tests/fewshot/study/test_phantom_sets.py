"""The four sets: reproducible, with the stated shares, and labels set by one lesion."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from medfocus.errors import FileError
from medfocus.fewshot.data.reader import read_dataset
from medfocus.fewshot.study import phantom_sets as sets
from medfocus.fewshot.study.phantom_sets import PHANTOM_SETS, SIDE, SetName, draw_phantom, write_set
from tests.errors import refuses


@pytest.mark.parametrize("name", PHANTOM_SETS)
def test_the_label_is_set_by_one_lesion(name: SetName) -> None:
    """Images of one number and two kinds differ only near the lesion, not in the decoys."""
    kinds = PHANTOM_SETS[name].kinds
    for number in range(3):
        first, second = (draw_phantom(name, number, kind) for kind in kinds[:2])
        again = draw_phantom(name, number, kinds[0])
        assert np.array_equal(first.image, again.image)
        differs = np.abs(first.image.astype(int) - second.image).max(2) > 12
        near = binary_dilation(first.mask | second.mask, iterations=16)
        assert differs.any()
        assert not (differs & ~near).any()


@pytest.mark.parametrize("name", PHANTOM_SETS)
def test_shares(name: SetName) -> None:
    chosen = PHANTOM_SETS[name]
    assert sum(chosen.shares) == pytest.approx(1)
    for images in (7, 18, 400):
        counts = chosen.counts(images)
        assert sum(counts) == images
        assert min(counts) >= 1
        for count, share in zip(counts, chosen.shares, strict=True):
            assert abs(count - share * images) <= 2


def test_decoys(monkeypatch: pytest.MonkeyPatch) -> None:
    """They change the image, but never the lesion."""
    kind = PHANTOM_SETS["lung"].kinds[0]
    with_decoys = draw_phantom("lung", 1, kind)
    monkeypatch.setattr(sets, "DECOYS", 0)
    without = draw_phantom("lung", 1, kind)
    differs = np.abs(with_decoys.image.astype(int) - without.image).max(2) > 12
    assert differs.mean() > 0.01
    assert not (differs & with_decoys.mask).any()


def test_a_set_on_disk(tmp_path: Path) -> None:
    write_set(tmp_path / "breast", "breast", 9)
    dataset = read_dataset(tmp_path / "breast")
    chosen = PHANTOM_SETS["breast"]
    assert dataset.name == "breast"
    assert dataset.classes == tuple(sorted(kind.name for kind in chosen.kinds))
    counts = Counter((item.part, dataset.classes[item.label]) for item in dataset.items)
    for part in ("train", "test"):
        for kind, count in zip(chosen.kinds, chosen.counts(9), strict=True):
            assert counts[part, kind.name] == count
    for item in dataset.items:
        (mask,) = item.masks
        with Image.open(item.path) as image, Image.open(mask) as truth:
            assert image.size == truth.size == (SIDE, SIDE)
            assert 0.005 < (np.asarray(truth) > 127).mean() < 0.06
    with refuses(FileError, "file.exists", "breast"):
        write_set(tmp_path / "breast", "breast", 9)
