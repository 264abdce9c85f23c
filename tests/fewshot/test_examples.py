"""Reading, segmenting and caching images: as in the engine, and only once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.progress import Progress

from medfocus.engine.preprocess.batch import collate, prepare
from medfocus.errors import FileError, ImageError
from medfocus.fewshot.backbones import Backbones
from medfocus.fewshot.data.dataset import Dataset, Item
from medfocus.fewshot.data.images import content_hash
from medfocus.fewshot.examples import Examples, classifier_inputs, load_examples
from medfocus.fewshot.focus_store import FocusStore
from medfocus.models.graphs import SegmenterOutput
from medfocus.settings import Focus
from tests.engine.io.read import read_images
from tests.errors import refuses


def load(items: list[Item], backbones: Backbones, store: FocusStore) -> Examples:
    with Progress(disable=True) as progress:
        return load_examples(items, backbones, store, progress)


def test_inputs_equal_those_of_the_engine(
    brain: Dataset, examples: Examples, backbones: Backbones
) -> None:
    """Compared with the engine's own preparation of the same file, in a mode that pools pixels."""
    focus = Focus(mode="overlay")
    (image,) = read_images(brain.items[3].path)
    prepared = prepare(image, backbones.preprocessing, focus, backbones.prompts)
    batch = collate([prepared], backbones.preprocessing)
    ours = classifier_inputs(examples, torch.tensor([3]), backbones, focus)
    for mine, expected in zip(
        (ours[0], ours[2], ours[3]), (batch.classifier, batch.rows, batch.cols), strict=True
    ):
        np.testing.assert_array_equal(mine.numpy(), expected)
    found = backbones.segmenter(
        *map(torch.from_numpy, (batch.segmenter, batch.points, batch.labels))
    )
    torch.testing.assert_close(ours[1], found.focus_logits, atol=1e-3, rtol=1e-5)
    assert (ours[1] > 0).any()


def test_lesions_are_the_masks_in_the_segmenters_frame(brain: Dataset, examples: Examples) -> None:
    assert examples.lesions is not None
    with Image.open(brain.items[5].masks[0]) as image:
        mask = np.asarray(image, np.float64) / 255  # 256 × 256, four pixels per cell side
    expected = mask.reshape(64, 4, 64, 4).mean((1, 3))
    np.testing.assert_allclose(examples.lesions[5].numpy(), expected, atol=1e-6)


def test_nothing_is_segmented_twice(
    brain: Dataset, backbones: Backbones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in another run nor under another name; a damaged file is written again."""
    items = [*brain.items[:2], brain.items[0]]
    store = FocusStore(tmp_path, backbones)
    seen: list[int] = []
    forward = backbones.segmenter.forward

    def watched(*inputs: torch.Tensor) -> SegmenterOutput:
        seen.append(len(inputs[0]))
        return forward(*inputs)

    monkeypatch.setattr(backbones.segmenter, "forward", watched)
    first = load(items, backbones, store)
    assert seen == [1, 1]
    again = load(items, backbones, FocusStore(tmp_path, backbones))
    assert seen == [1, 1]
    assert torch.equal(first.focus_logits, again.focus_logits)
    assert torch.equal(first.focus_logits[0], first.focus_logits[2])
    files = sorted(store.folder.rglob("*.safetensors"))
    assert {file.stem for file in files} == set(first.content)
    files[0].write_bytes(files[0].read_bytes()[:100])
    restored = load(items, backbones, store)
    assert seen == [1, 1, 1]
    assert torch.equal(restored.focus_logits, first.focus_logits)


def test_a_store_that_cannot_be_written(
    brain: Dataset, backbones: Backbones, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with refuses(FileError, "file.unwritable", str(tmp_path / "file")) as caught:
        load([*brain.items[:1]], backbones, FocusStore(tmp_path / "file", backbones))
    assert "--cache" in caught.value.hint


def test_the_content_of_the_store_changes_no_bit(
    brain: Dataset, examples: Examples, backbones: Backbones, tmp_path: Path
) -> None:
    """For example after a run that was killed, or one on some of the images."""
    load([*brain.items[:12:3]], backbones, FocusStore(tmp_path, backbones))
    again = load([*brain.items[:12]], backbones, FocusStore(tmp_path, backbones))
    assert torch.equal(again.focus_logits, examples.focus_logits[:12])
    assert torch.equal(again.score, examples.score[:12])


def test_images_of_one_file_patient_or_picture_belong_together(
    backbones: Backbones, tmp_path: Path
) -> None:
    shades = iter(range(10, 100, 10))

    def draw(name: str, count: int = 1) -> Path:
        frames = [Image.new("L", (64, 64), next(shades)) for _ in range(count)]
        frames[0].save(tmp_path / name, save_all=count > 1, append_images=frames[1:])
        return tmp_path / name

    two, one, other, last = draw("two.tif", 2), draw("a.png"), draw("b.png"), draw("c.png")
    copy = tmp_path / "copy.bmp"  # the same picture as a.png, in other bytes
    with Image.open(one) as image:
        image.save(copy)
    items = [
        Item(two, 0, group="x"), Item(one, 0, group="y"), Item(other, 0),
        Item(last, 0, group="x"), Item(copy, 0),
    ]  # fmt: skip
    groups = load(items, backbones, FocusStore(tmp_path / "store", backbones)).groups
    together = (groups[:, None] == groups[None]).int().tolist()
    assert together == [
        [1, 1, 0, 0, 1, 0],  # two.tif, its first frame
        [1, 1, 0, 0, 1, 0],
        [0, 0, 1, 0, 0, 1],  # a.png and its copy
        [0, 0, 0, 1, 0, 0],  # b.png, without a known patient
        [1, 1, 0, 0, 1, 0],  # c.png, of the same patient as two.tif
        [0, 0, 1, 0, 0, 1],
    ]


def test_an_image_that_does_not_suit_the_classifier_is_named(
    backbones: Backbones, tmp_path: Path
) -> None:
    Image.new("L", (1, 12_000)).save(tmp_path / "thin.png")
    with refuses(ImageError, "image.unreadable", "1 of 1 files") as caught:
        load([Item(tmp_path / "thin.png", 0)], backbones, FocusStore(tmp_path / "s", backbones))
    assert "thin.png" in caught.value.problem


def test_other_weights_have_a_store_of_their_own(backbones: Backbones, tmp_path: Path) -> None:
    other = replace(backbones, segmenter_sha256="0" * 64)
    assert FocusStore(tmp_path, backbones).folder != FocusStore(tmp_path, other).folder


def test_the_content_hash_depends_on_pixels_only(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (8, 6, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.bmp")
    first, second = (read_images(tmp_path / name)[0] for name in ("a.png", "b.bmp"))
    assert content_hash(first) == content_hash(second)
    (turned,) = read_images(pixels.reshape(6, 8, 3))
    assert content_hash(turned) != content_hash(first)


def test_masks_that_do_not_fit(brain: Dataset, backbones: Backbones, tmp_path: Path) -> None:
    Image.new("L", (5, 5)).save(tmp_path / "mask.png")
    Image.new("L", (256, 256), 1).save(tmp_path / "ones.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    for name in ("mask.png", "ones.png", "broken.png"):
        item = Item(brain.items[0].path, 0, masks=(tmp_path / name,))
        with refuses(ImageError, "image.unreadable", "1 of 1 files") as caught:
            load([item], backbones, FocusStore(tmp_path / "store", backbones))
        assert name in caught.value.problem
