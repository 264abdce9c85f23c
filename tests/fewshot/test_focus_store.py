"""Only what was stored for an image is taken from the cache; the rest is made again, said once."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from medfocus.fewshot.backbones import Backbones
from medfocus.fewshot.focus_store import FocusStore

IMAGE, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def entry(backbones: Backbones, tmp_path: Path) -> tuple[FocusStore, Path]:
    """A store with an image's mask, and the file of it."""
    store = FocusStore(tmp_path, backbones)
    side = backbones.preprocessing.segmenter.size // 4  # SAM2's masks: one value for 4 × 4 pixels
    store.write(IMAGE, torch.linspace(-9, 9, side * side).reshape(side, side), torch.tensor(0.5))
    (file,) = store.folder.rglob("*.safetensors")
    return store, file


def test_an_entry_is_read_as_it_was_written(entry: tuple[FocusStore, Path]) -> None:
    found = entry[0].read(IMAGE)
    assert found is not None
    assert (float(found[0][0, 0]), float(found[0][-1, -1]), float(found[1])) == (-9, 9, 0.5)
    assert entry[0].read(OTHER) is None


def changed(file: Path, **tensors: Tensor | None) -> None:
    content = {**load(file.read_bytes()), **tensors}
    file.write_bytes(save({name: t.contiguous() for name, t in content.items() if t is not None}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda stored: {"focus_logits": -stored["focus_logits"]},
        lambda stored: {"focus_logits": stored["focus_logits"] * torch.nan},
        lambda stored: {"focus_logits": stored["focus_logits"][1:]},
        lambda stored: {"focus_logits": stored["focus_logits"].flatten()},
        lambda stored: {"focus_logits": stored["focus_logits"].half()},
        lambda stored: {"focus_logits": stored["focus_logits"].double()},
        lambda stored: {"focus_logits": None},
        lambda stored: {"score": torch.tensor(0.75)},
        lambda stored: {"score": torch.tensor([0.5])},
        lambda stored: {"sha256": torch.zeros(32, dtype=torch.uint8)},
        lambda stored: {"sha256": None},
    ],
)
def test_another_entry_is_none(entry: tuple[FocusStore, Path], damage) -> None:
    store, file = entry
    changed(file, **damage(load(file.read_bytes())))
    assert store.read(IMAGE) is None


def test_values_that_are_not_finite_are_none(backbones: Backbones, tmp_path: Path) -> None:
    """Even if they were written: by a segmenter that failed."""
    store = FocusStore(tmp_path, backbones)
    side = backbones.preprocessing.segmenter.size // 4
    store.write(IMAGE, torch.full((side, side), torch.inf), torch.tensor(0.5))
    assert store.read(IMAGE) is None


def test_damage_is_said_once(
    entry: tuple[FocusStore, Path], caplog: pytest.LogCaptureFixture
) -> None:
    store, file = entry
    copy = store.folder / OTHER[:2] / f"{OTHER}.safetensors"  # the mask of another image
    copy.parent.mkdir()
    copy.write_bytes(file.read_bytes())
    file.write_bytes(file.read_bytes()[:100])
    with caplog.at_level(logging.WARNING, "medfocus"):
        assert [store.read(name) for name in (IMAGE, OTHER, IMAGE)] == [None] * 3
    assert [str(store.folder) in message for message in caplog.messages] == [True]
