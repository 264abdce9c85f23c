"""Splits: nested, stratified, free of leaks, and reproducible."""

import io
import itertools
import shutil
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from medfocus.errors import FileError, InputError
from medfocus.fewshot.data.dataset import Dataset
from medfocus.fewshot.data.folder import read_folder
from medfocus.fewshot.data.images import content_hash, leave_out_unreadable
from medfocus.fewshot.data.reader import read_dataset
from medfocus.fewshot.data.splitting import splits
from medfocus.fewshot.data.splitting.leaks import leave_out_copies
from medfocus.fewshot.data.splitting.splits import Fraction, Shots, make_split
from tests.engine.io.read import read_images
from tests.errors import refuses
from tests.fewshot.data.files import dicom, png
from tests.fewshot.data.splitting.pools import fake


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """All files count as different and need not exist."""
    monkeypatch.setattr(
        splits,
        "content_hashes",
        lambda paths: [sha256(str(path).encode()).hexdigest() for path in paths],
    )


def images(root: Path, counts: dict[str, int]) -> Dataset:
    """An image folder with the given number of different images per folder."""
    for folder, count in counts.items():
        for number in range(count):
            png(root / folder / f"{number}.png")
    return read_folder(root)


@pytest.mark.usefixtures("no_files")
@pytest.mark.parametrize("seed", [0, 1, -3])
def test_a_smaller_amount_is_a_subset(seed: int) -> None:
    dataset = fake([0] * 60 + [1] * 41 + [2] * 20)
    amounts = [Fraction(share) for share in (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)]
    shots = [Shots(count) for count in (1, 2, 4, 8, 16)]
    for ladder in (amounts, shots):
        chosen = [make_split(dataset, amount, seed) for amount in ladder]
        for less, more in itertools.pairwise(chosen):
            assert set(less.train) < set(more.train)
            assert less.test == more.test


@pytest.mark.usefixtures("no_files")
def test_amounts_per_class() -> None:
    dataset = fake([0] * 100 + [1] * 50 + [2] * 10)
    whole = make_split(dataset, Fraction(1), 0)
    labels = [item.label for item in dataset.items]
    pool = Counter(labels[index] for index in whole.train)
    assert pool == {0: 80, 1: 40, 2: 8}
    assert Counter(labels[index] for index in whole.test) == {0: 20, 1: 10, 2: 2}
    assert sorted(whole.train + whole.test) == list(range(160))
    for share in (0.01, 0.05, 0.1, 0.33):
        split = make_split(dataset, Fraction(share), 0)
        assert Counter(labels[index] for index in split.train) == {
            label: max(1, round(share * count)) for label, count in pool.items()
        }
    split = make_split(dataset, Shots(8), 0)
    assert Counter(labels[index] for index in split.train) == {0: 8, 1: 8, 2: 8}
    with refuses(InputError, "split.too_few_files", "class 'c'"):
        make_split(dataset, Shots(9), 0)


@pytest.mark.usefixtures("no_files")
def test_the_seed_changes_only_the_training_files() -> None:
    dataset = fake([0] * 50 + [1] * 50 + [2] * 50)
    first, again, other = (make_split(dataset, Shots(8), seed) for seed in (5, 5, 6))
    assert first == again
    assert first.train != other.train
    assert first.test == other.test
    parted = tuple(
        replace(item, part="test" if index in first.test else "train")
        for index, item in enumerate(dataset.items)
    )
    dataset = replace(dataset, items=parted)
    uses = Counter(
        index for seed in range(400) for index in make_split(dataset, Shots(10), seed).train
    )
    # Each of the 120 files is in one of four choices: 100 ± 8.7 of 400, so ± 5 standard deviations.
    assert len(uses) == 120
    assert all(56 < count < 144 for count in uses.values())


@pytest.mark.usefixtures("no_files")
def test_the_choice_is_the_same_on_every_machine() -> None:
    """Published results are named by seed and amount: this order must never change."""
    items = [
        replace(item, part="test" if number % 2 else "train")
        for number, item in enumerate(fake([number // 20 for number in range(60)]).items)
    ]
    dataset = replace(fake([]), items=tuple(items))
    assert make_split(dataset, Shots(3), 0).train == (4, 6, 14, 24, 28, 34, 44, 50, 56)
    assert make_split(dataset, Shots(3), 1).train == (2, 8, 18, 20, 34, 36, 40, 54, 56)


def test_amounts_as_text() -> None:
    assert [str(amount) for amount in (Shots(1), Shots(16), Fraction(0.05), Fraction(1))] == [
        "1 shot",
        "16 shots",
        "5%",
        "100%",
    ]
    for wrong in (0.0, -0.1, 1.5, float("nan")):
        with refuses(InputError, "input.out_of_range", str(wrong)):
            Fraction(wrong)
    with refuses(InputError, "input.out_of_range", "0 shots"):
        Shots(0)


@pytest.mark.usefixtures("no_files")
def test_classes_too_small_to_test() -> None:
    with refuses(InputError, "split.too_few_files", "class 'c' of fake"):
        make_split(fake([0] * 10 + [1] * 10 + [2]), Shots(1), 0)
    with refuses(InputError, "split.too_few_files", "class 'a' of fake"):
        make_split(fake([0, 1, 2]), Shots(1), 0)
    split = make_split(fake([0] * 3 + [1] * 3 + [2] * 3), Shots(1), 0)
    assert len(split.test) == 3


def test_the_authors_parts(tmp_path: Path) -> None:
    dataset = images(tmp_path, {"train/a": 6, "train/b": 5, "test/a": 2, "test/b": 3})
    split = make_split(dataset, Shots(3), 0)
    assert [dataset.items[index].part for index in split.test] == ["test"] * 5
    assert {dataset.items[index].part for index in split.train} == {"train"}
    assert len(split.train) == 6
    for file in split.train_files + split.test_files:
        path = tmp_path / file.file
        assert dataset.items[file.index].path == path
        assert dataset.items[file.index].label == file.label
        assert sha256(path.read_bytes()).hexdigest() == file.sha256


def test_a_class_without_test_files(tmp_path: Path) -> None:
    dataset = images(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1})
    kept = tuple(item for item in dataset.items if (item.part, item.label) != ("test", 1))
    less = Dataset("less", tmp_path, dataset.classes, dataset.prompts, kept)
    with refuses(InputError, "split.too_few_files", "class 'b' of less") as caught:
        make_split(less, Shots(1), 0)
    assert "test" in caught.value.problem


def test_a_copy_in_both_parts(tmp_path: Path) -> None:
    images(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2})
    png(tmp_path / "train" / "a" / "copy.png", 1)
    png(tmp_path / "test" / "a" / "original.png", 1)
    with refuses(InputError, "split.shared_content", "train/a/copy.png and test/a/original.png"):
        make_split(read_folder(tmp_path), Shots(1), 0)


def test_copies_stay_together(tmp_path: Path) -> None:
    for label, folder in enumerate("ab"):
        for number in range(30):
            png(tmp_path / folder / f"{number}.png", 100 * label + number // 2)
    split = make_split(read_folder(tmp_path), Fraction(1), 0)
    assert len(split.train) + len(split.test) == 60
    hashes = [{file.sha256 for file in files} for files in (split.train_files, split.test_files)]
    assert hashes[0].isdisjoint(hashes[1])


def test_one_content_with_two_labels(tmp_path: Path) -> None:
    images(tmp_path, {"a": 5, "b": 5})
    png(tmp_path / "a" / "x.png", 1)
    png(tmp_path / "b" / "y.png", 1)
    with refuses(InputError, "dataset.conflicting_labels", "a/x.png and b/y.png"):
        make_split(read_folder(tmp_path), Shots(1), 0)


def test_copies_are_left_out_on_request(tmp_path: Path) -> None:
    images(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2})
    png(tmp_path / "train" / "a" / "copy.png", 1)
    png(tmp_path / "test" / "a" / "original.png", 1)
    for name in ("train/a/x.png", "train/b/y.png", "test/b/z.png"):
        png(tmp_path / name, 2)
    for name in ("train/b/twice.png", "train/b/again.png"):
        png(tmp_path / name, 3)
    bmp(tmp_path / "test" / "b" / "1.png", tmp_path / "train" / "b" / "other-bytes.bmp")
    bmp(tmp_path / "train" / "a" / "2.png", tmp_path / "test" / "b" / "other-label.bmp")
    kept, out, report = without_copies(tmp_path)
    assert out == {
        *("train/a/copy.png", "train/a/x.png", "train/b/y.png", "test/b/z.png"),
        *("train/b/other-bytes.bmp", "train/a/2.png", "test/b/other-label.bmp"),
    }
    assert all(f"left out: {name}: " in report for name in out)
    split = make_split(kept, Fraction(1), 0)
    assert {file.file for file in split.train_files} >= {"train/b/twice.png", "train/b/again.png"}


def test_the_same_image_in_other_bytes_is_left_out_where_it_could_be_split(tmp_path: Path) -> None:
    """Copies of a file stay together in any split, and so do the images of a patient."""
    rows = []
    for label in "ab":
        for number in range(10):
            png(tmp_path / f"{label}{number}.png")
            rows.append(f"{label}{number}.png,{label},p{number}")
    for name, original, group in (("x", "a2", ""), ("y", "a3", "p3"), ("z", "b1", "p9")):
        bmp(tmp_path / f"{original}.png", tmp_path / f"{name}.bmp")
        rows.append(f"{name}.bmp,{original[0]},{group}")
    shutil.copy(tmp_path / "a4.png", tmp_path / "copy.png")
    rows.append("copy.png,a,")
    (tmp_path / "dataset.csv").write_text("\n".join(["path,label,group", *rows]))
    kept, out, _ = without_copies(tmp_path)
    assert out == {"x.bmp", "z.bmp"}
    split = make_split(kept, Fraction(1), 0)
    pixels = [
        {content_hash(read_images(tmp_path / file.file)[0]) for file in files}
        for files in (split.train_files, split.test_files)
    ]
    assert pixels[0].isdisjoint(pixels[1])


def bmp(source: Path, target: Path) -> None:
    with Image.open(source) as image:
        image.save(target)


def without_copies(folder: Path) -> tuple[Dataset, set[str], str]:
    """A data set without copies, the names of those left out, and the report."""
    dataset, text = read_dataset(folder), io.StringIO()
    pixels = leave_out_unreadable(dataset.items, repr, Console(file=io.StringIO()))
    kept = leave_out_copies(dataset, pixels, Console(file=text, width=200))
    out = {
        item.path.relative_to(dataset.root).as_posix()
        for item in set(dataset.items) - set(kept.items)
    }
    return kept, out, text.getvalue()


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    with refuses(InputError, "dataset.missing_class", tmp_path.name):
        make_split(images(tmp_path, {"a": 8}), Shots(1), 0)


def test_a_patient_in_both_parts(tmp_path: Path) -> None:
    images(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2})
    for name in ("train/a/1.dcm", "train/b/2.dcm", "test/a/3.dcm"):
        dicom(tmp_path / name, "Doe^Jane")
    dicom(tmp_path / "train" / "a" / "4.dcm", "Roe")
    with refuses(InputError, "split.shared_groups", tmp_path.name) as caught:
        make_split(read_folder(tmp_path), Shots(1), 0)
    assert "1 groups" in caught.value.problem
    assert "2 in training and 1 in test" in caught.value.problem
    assert "Doe" not in str(caught.value)
    assert sha256(b"Doe^Jane").hexdigest() not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    dataset = images(tmp_path, {"a": 5, "b": 5})
    dataset.items[3].path.unlink()
    with refuses(FileError, "file.missing", "a/3.png"):
        make_split(dataset, Shots(1), 0)
