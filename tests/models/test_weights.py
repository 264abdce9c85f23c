"""Weight files: what loads, what is refused, and that nothing in them runs."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medfocus.errors import InputError, WeightsError
from medfocus.models.architectures import build_clip
from medfocus.models.head import Head, uniform_strength
from medfocus.models.loading import load_clip, load_segmenter
from medfocus.models.segmenter import Segmenter
from medfocus.models.text import class_embeddings, tokenize
from medfocus.models.weights import load_strictly, read_weights, resolve


class Bomb:
    """Pickles to a call that would leave a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


@pytest.fixture
def layer() -> torch.nn.Linear:
    torch.manual_seed(1)
    return torch.nn.Linear(3, 2)


def test_every_wrapping_of_a_state_dict_loads(layer: torch.nn.Linear, tmp_path: Path) -> None:
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
        with pytest.raises(WeightsError, match=name):
            read_weights(tmp_path / name)
    assert not trace.exists()


def test_torchscript_is_refused(layer: torch.nn.Linear, tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(layer, torch.zeros(1, 3)), tmp_path / "clip.pt")
    with pytest.raises(WeightsError, match=r"TorchScript.*state dict"):
        read_weights(tmp_path / "clip.pt")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"", "no checkpoint"),
        (b"not weights at all", "no checkpoint"),
    ],
)
def test_files_that_hold_no_weights(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=problem):
        read_weights(tmp_path / "w.pt")


def test_a_truncated_safetensors_file(layer: torch.nn.Linear, tmp_path: Path) -> None:
    save_file(layer.state_dict(), tmp_path / "w.safetensors")
    data = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(data[:-4])
    with pytest.raises(WeightsError, match="Download the file again"):
        read_weights(tmp_path / "w.safetensors")


def test_names_and_shapes_are_strict(layer: torch.nn.Linear) -> None:
    before = layer.weight.clone()
    good = layer.state_dict()
    with pytest.raises(WeightsError, match=r"1 missing \(first: bias\).*1 unexpected \(first: b\)"):
        load_strictly(layer, {"weight": good["weight"], "b": good["bias"]}, "w.pt")
    with pytest.raises(WeightsError, match=r"weight has shape \(3, 2\), not \(2, 3\)"):
        load_strictly(layer, {"weight": good["weight"].T, "bias": good["bias"] + 1}, "w.pt")
    assert torch.equal(layer.weight, before)


def test_the_wrong_architecture_is_named() -> None:
    with pytest.raises(WeightsError, match=r"(?s)missing \(first: image_encoder.trunk.blocks"):
        load_strictly(
            Segmenter("sam2.1_hiera_small"), Segmenter("sam2.1_hiera_tiny").state_dict(), "t.pt"
        )


def test_sources_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        resolve("nowhere.pt")
    with pytest.raises(WeightsError, match="no such file"):
        resolve("owner/name")  # a hub id without its commit
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"cannot be downloaded.*network"):
        resolve(f"owner/name@{'0' * 40}:model.safetensors")


def test_only_the_tiny_preset_has_weights_of_its_own() -> None:
    with pytest.raises(WeightsError, match="--sam2-weights"):
        load_segmenter("sam2.1_hiera_tiny")
    with pytest.raises(WeightsError, match="--clip-weights"):
        load_clip("ViT-B-16")


def test_full_size_clip_loads_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(5)
    clip = build_clip("ViT-B-16").eval()
    save_file(clip.state_dict(), tmp_path / "clip.safetensors")
    loaded, _ = load_clip("ViT-B-16", tmp_path / "clip.safetensors")
    classes = ["glioma", "no tumour"]
    embeddings = class_embeddings(loaded, classes)
    tokens = tokenize([f"This is a photo of {name}" for name in classes], 77)
    with torch.inference_mode():
        expected = clip.encode_text(tokens, normalize=True)
    torch.testing.assert_close(embeddings, expected)


def test_a_class_prompt_that_would_be_cut_is_refused() -> None:
    with pytest.raises(InputError, match="more than 30 tokens"):
        tokenize(["a very " * 40 + "long name"], 32)


def test_a_head_survives_the_disk(tmp_path: Path) -> None:
    head = Head(
        "medfocus_tiny",
        ("a", "ü, with comma"),
        torch.randn(2, 128),
        torch.tensor(9.0),
        uniform_strength(6),
    )
    head.save(tmp_path / "head.safetensors")
    again = Head.read(tmp_path / "head.safetensors")
    assert (again.clip, again.classes) == (head.clip, head.classes)
    for name, tensor in head.tensors().items():
        assert torch.equal(again.tensors()[name], tensor)


def test_files_that_are_no_head(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "w.safetensors")
    (tmp_path / "p.safetensors").write_bytes(pickle.dumps({}))
    for name in ("w.safetensors", "p.safetensors", "missing.safetensors"):
        with pytest.raises(WeightsError, match=name):
            Head.read(tmp_path / name)
