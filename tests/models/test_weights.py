"""Weight files: which load, which are refused, and that nothing in them is executed."""

import pickle
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import transformers
from safetensors.torch import save_file

from medfocus.errors import FileError, InputError, WeightsError
from medfocus.models.clip.architecture import build_clip
from medfocus.models.clip.text import class_embeddings, read_classes, tokenizer_for
from medfocus.models.graphs import Cache
from medfocus.models.head import Head, uniform_strength
from medfocus.models.loading import load_clip, load_segmenter
from medfocus.models.sam2.segmenter import Segmenter
from medfocus.models.weights import load_strictly, read_weights, resolve
from tests.errors import refuses

BIOMED = "BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"


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


def test_full_size_clip_loads_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(5)
    clip = build_clip("ViT-B-16").eval()
    save_file(clip.state_dict(), tmp_path / "clip.safetensors")
    loaded = load_clip("ViT-B-16", tmp_path / "clip.safetensors")
    classes = ["glioma", "no tumour"]
    embeddings = class_embeddings(loaded.model, loaded.tokenize, classes)
    tokens = open_clip.tokenize([f"This is a photo of {name}" for name in classes])
    with torch.inference_mode():
        expected = clip.encode_text(tokens, normalize=True)
    torch.testing.assert_close(embeddings, expected)


@pytest.fixture
def bert_folder(tmp_path: Path) -> Path:
    """Configuration and vocabulary of a small BERT, as a user would copy them from the hub."""
    folder = tmp_path / "bert"
    folder.mkdir()
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *["this", "is", "a", "photo", "of", "glioma"],
    ]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertConfig(
        vocab_size=len(words), hidden_size=64, num_hidden_layers=2, num_attention_heads=2
    ).save_pretrained(folder)
    return folder


def test_biomedclip_with_its_text_encoder_from_files(bert_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    state = build_clip(BIOMED, bert_folder).state_dict()
    # A buffer of older checkpoints.
    state["text.transformer.embeddings.position_ids"] = torch.arange(512)[None]
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "b.safetensors")
    loaded = load_clip(BIOMED, tmp_path / "b.safetensors", bert_folder)
    embeddings = class_embeddings(loaded.model, loaded.tokenize, ["glioma", "a photo"])
    tokens = torch.zeros(2, 256, dtype=torch.int64)
    tokens[0, :8] = torch.tensor([2, 5, 6, 7, 8, 9, 10, 3])
    tokens[1, :9] = torch.tensor([2, 5, 6, 7, 8, 9, 7, 8, 3])
    with torch.inference_mode():
        expected = loaded.model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(embeddings, expected)


def test_biomedclip_without_its_text_encoder(tmp_path: Path) -> None:
    with refuses(FileError, "model.text_encoder", BIOMED) as caught:
        build_clip(BIOMED)
    assert "--text-folder" in caught.value.hint
    with refuses(FileError, "model.text_encoder", str(tmp_path)):
        build_clip(BIOMED, tmp_path)
    with refuses(FileError, "model.text_encoder", str(tmp_path)):
        tokenizer_for(BIOMED, tmp_path)


def test_a_class_prompt_that_would_be_truncated_is_refused() -> None:
    with refuses(InputError, "input.text_too_long", "long name") as caught:
        tokenizer_for("medfocus_tiny")(["a very " * 40 + "long name"])
    assert "32" in caught.value.problem


@pytest.mark.parametrize(
    ("content", "code"),
    [("", "input.empty"), ("\n \n", "input.empty"), ("a\na", "input.duplicate_class")],
)
def test_unusable_class_names_are_refused(content: str, code: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(content)
    with refuses(InputError, code, "classes.txt"):
        read_classes(tmp_path / "classes.txt")


def test_a_missing_class_file_is_refused(tmp_path: Path) -> None:
    with refuses(FileError, "file.unusable", "classes.txt"):
        read_classes(tmp_path / "classes.txt")


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
