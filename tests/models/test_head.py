"""Heads: saved and read, and which are refused."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medfocus.errors import WeightsError
from medfocus.models.graphs import Cache
from medfocus.models.head import Head, uniform_strength
from tests.errors import refuses


def test_a_head_is_read_as_it_was_saved(tmp_path: Path) -> None:
    head = Head(
        "medfocus_tiny",
        "0" * 64,
        "hard",
        ("a", "ü, with comma"),
        torch.randn(2, 128),
        torch.tensor(9.0),
        uniform_strength(6),
        Cache(torch.randn(5, 128), torch.rand(5, 2), torch.tensor(5.5)),
        {"prompts": torch.randn(6, 2, 128), "visual.proj.up": torch.randn(128, 4)},
        "tip",
        1.3,
        ("1" * 64, "2" * 64),
    )
    head.save(tmp_path / "head.safetensors")
    again = Head.read(tmp_path / "head.safetensors")
    assert (again.clip, again.clip_sha256) == (head.clip, head.clip_sha256)
    assert (again.focus, again.classes) == (head.focus, head.classes)
    assert (again.adaptation, again.temperature) == (head.adaptation, head.temperature)
    assert again.trained_on == head.trained_on
    for before, after in ((head.tensors(), again.tensors()), (head.adapter, again.adapter)):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("classes", "embeddings", "scale"),
    [
        (("a", "b", "c"), torch.zeros(2, 128), torch.tensor(9.0)),
        (("a", "b"), torch.zeros(2, 128), torch.zeros(2)),
        (("a", "b"), torch.zeros(2, 128), torch.tensor(9)),
        (("a", "b"), torch.full((2, 128), torch.nan), torch.tensor(9.0)),
    ],
)
def test_invalid_heads_are_refused(
    classes: tuple[str, ...], embeddings: torch.Tensor, scale: torch.Tensor
) -> None:
    with refuses(WeightsError, "head.invalid", "head"):
        Head("medfocus_tiny", "0" * 64, "soft", classes, embeddings, scale, uniform_strength(6))


def test_files_without_a_head_are_refused(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "w.safetensors")
    (tmp_path / "p.safetensors").write_bytes(pickle.dumps({}))
    for name, code in (
        ("w.safetensors", "head.invalid"),
        ("p.safetensors", "head.unreadable"),
        ("missing.safetensors", "head.unreadable"),
    ):
        with refuses(WeightsError, code, name):
            Head.read(tmp_path / name)
