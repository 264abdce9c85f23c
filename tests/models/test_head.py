"""Heads: saved and read, and which are refused."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
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
        (("a", "b"), torch.zeros(2, 128, dtype=torch.float16), torch.tensor(9.0)),
        (("a", "b"), torch.zeros(2, 128), torch.tensor(9.0, dtype=torch.float64)),
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


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("clip", None),
        ("focus", "softly"),
        ("classes", "ab"),
        ("classes", ["a", 7]),
        ("temperature", "1.0"),
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("trained_on", {}),
        ("trained_on", [None]),
    ],
)
def test_metadata_of_another_type_is_refused(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "head.safetensors"
    two = torch.zeros(2, 128)
    Head("clip", "0" * 64, "soft", ("a", "b"), two, torch.tensor(9.0), uniform_strength(6)).save(
        path
    )
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["head"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {"head": json.dumps({**about, key: value})})
    with refuses(WeightsError, "head.invalid", f"{path}: {key}"):
        Head.read(path)
    for text in (json.dumps({**about, "more": 1}), "[" * 10_000, "[]", "{"):
        save_file(tensors, path, {"head": text})
        with refuses(WeightsError, "head.invalid", str(path)):
            Head.read(path)
