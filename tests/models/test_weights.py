"""Weight files: which load, which are refused, and that nothing in them is executed."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medfocus.errors import WeightsError
from medfocus.models.loading import load_clip, load_segmenter
from medfocus.models.sam2.segmenter import Segmenter
from medfocus.models.weights import load_strictly, read_weights, resolve
from tests.errors import refuses


class Bomb:
    """Pickles to a call that creates a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


@pytest.fixture
def layer() -> torch.nn.Linear:
    torch.manual_seed(1)
    return torch.nn.Linear(3, 2)


def test_every_wrapper_of_a_state_dict_loads(layer: torch.nn.Linear, tmp_path: Path) -> None:
    state = layer.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pt")
    torch.save({"model": state}, tmp_path / "c.pt")
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "d.pt"
    )
    for path in sorted(tmp_path.iterdir()):
        target = torch.nn.Linear(3, 2)
        load_strictly(target, read_weights(path), str(path))
        assert torch.equal(target.weight, layer.weight)


def test_a_pickle_with_code_is_refused_and_never_run(tmp_path: Path) -> None:
    trace = tmp_path / "was here"
    (tmp_path / "code.pt").write_bytes(pickle.dumps({"w": Bomb(trace)}))
    torch.save({"w": Bomb(trace)}, tmp_path / "zipped.pt")
    (tmp_path / "code.safetensors").write_bytes(pickle.dumps({"w": Bomb(trace)}))
    for name in ("code.pt", "zipped.pt", "code.safetensors"):
        with refuses(WeightsError, "weights.unreadable", name):
            read_weights(tmp_path / name)
    assert not trace.exists()


def test_torchscript_is_refused(layer: torch.nn.Linear, tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(layer, torch.zeros(1, 3)), tmp_path / "clip.pt")
    with refuses(WeightsError, "weights.unsafe", "clip.pt"):
        read_weights(tmp_path / "clip.pt")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "weights.lfs_pointer"),
        (b"", "weights.unreadable"),
        (b"not weights at all", "weights.unreadable"),
    ],
)
def test_files_without_weights_are_refused(content: bytes, code: str, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with refuses(WeightsError, code, "w.pt"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [{}, [1, 2], {"weight": "a string"}])
def test_checkpoints_without_a_state_dict_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with refuses(WeightsError, "weights.no_state_dict", "w.pt"):
        read_weights(tmp_path / "w.pt")


def test_a_truncated_safetensors_file(layer: torch.nn.Linear, tmp_path: Path) -> None:
    save_file(layer.state_dict(), tmp_path / "w.safetensors")
    data = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(data[:-4])
    with refuses(WeightsError, "weights.unreadable", "w.safetensors"):
        read_weights(tmp_path / "w.safetensors")


def test_names_and_shapes_are_strict(layer: torch.nn.Linear) -> None:
    before = layer.weight.clone()
    good = layer.state_dict()
    with refuses(WeightsError, "weights.mismatch", "w.pt") as caught:
        load_strictly(layer, {"weight": good["weight"], "b": good["bias"]}, "w.pt")
    for named in ("1 missing", "first: bias", "1 unexpected", "first: b)"):
        assert named in caught.value.problem
    with refuses(WeightsError, "weights.shape_mismatch", "w.pt") as caught:
        load_strictly(layer, {"weight": good["weight"].T, "bias": good["bias"] + 1}, "w.pt")
    for named in ("weight", "(3, 2)", "(2, 3)"):
        assert named in caught.value.problem
    assert torch.equal(layer.weight, before)


def test_weights_of_another_architecture_are_refused() -> None:
    with refuses(WeightsError, "weights.mismatch", "t.pt") as caught:
        load_strictly(
            Segmenter("sam2.1_hiera_small"), Segmenter("sam2.1_hiera_tiny").state_dict(), "t.pt"
        )
    assert "image_encoder.trunk.blocks" in caught.value.problem


def test_missing_sources_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for source in ("nowhere.pt", "owner/name"):  # the second is a hub id without its commit
        with refuses(WeightsError, "weights.missing", source):
            resolve(source)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with refuses(WeightsError, "weights.not_downloaded", "owner/name"):
        resolve(f"owner/name@{'0' * 40}:model.safetensors")


def test_only_the_tiny_preset_has_shipped_weights() -> None:
    with refuses(WeightsError, "weights.not_shipped", "sam2.1_hiera_tiny") as caught:
        load_segmenter("sam2.1_hiera_tiny")
    assert "--sam2-weights" in caught.value.hint
    with refuses(WeightsError, "weights.not_shipped", "ViT-B-16") as caught:
        load_clip("ViT-B-16")
    assert "--clip-weights" in caught.value.hint


def test_damaged_checkpoints_raise_only_our_error(layer: torch.nn.Linear, tmp_path: Path) -> None:
    torch.save(layer.state_dict(), tmp_path / "w.pt")
    data = (tmp_path / "w.pt").read_bytes()
    random = np.random.default_rng(43)
    refusals = 0
    for _ in range(200):
        damaged = bytearray(data[: random.integers(1, len(data) + 1)])
        for place in random.integers(0, len(damaged), 4):
            damaged[place] = random.integers(256)
        (tmp_path / "w.pt").write_bytes(damaged)
        try:
            read_weights(tmp_path / "w.pt")
        except WeightsError:
            refusals += 1
    assert refusals > 100
