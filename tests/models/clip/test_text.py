"""Class names, class embeddings and text encoders."""

from pathlib import Path

import open_clip
import pytest
import torch
import transformers
from safetensors.torch import save_file

from medfocus.errors import FileError, InputError
from medfocus.models.clip.architecture import build_clip
from medfocus.models.clip.text import class_embeddings, tokenizer_for
from medfocus.models.loading import load_clip
from tests.errors import refuses

BIOMED = "BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"


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


def test_several_class_prompts_are_averaged_as_unit_vectors() -> None:
    """Each class by itself, with open_clip's text tower and the mean written out."""
    loaded = load_clip("medfocus_tiny")
    classes = ["smooth solid lesion", "{odd} name"]
    templates = ["This is a photo of {class}", "a {class} in a brain MRI slice", "{class}"]
    found = class_embeddings(loaded.model, loaded.tokenize, classes, templates)
    for row, name in enumerate(classes):
        texts = [
            f"This is a photo of {name}",
            f"a {name} in a brain MRI slice",
            name,
        ]
        with torch.inference_mode():
            embeddings = loaded.model.encode_text(loaded.tokenize(texts)).double()
        mean = (embeddings / embeddings.norm(dim=1, keepdim=True)).mean(0)
        torch.testing.assert_close(found[row].double(), mean / mean.norm(), rtol=1e-5, atol=1e-6)


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
