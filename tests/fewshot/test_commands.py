"""`medfocus fit` and `medfocus eval` from the command line to the files."""

import csv
import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from medfocus.fewshot import eval_command, fit_command
from medfocus.fewshot.data.dataset import Dataset
from medfocus.models.head import Head


def fit(dataset: Path, out: Path, cache: Path, *more: str) -> int:
    options = ["--shots", "2", "--focus", "soft", "--cache", str(cache), "--device", "cpu"]
    return fit_command.main([str(dataset), "-o", str(out), *options, *more])


def test_fit_then_eval(
    brain: Dataset, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = tmp_path / "heads" / "head.safetensors"  # in a folder that is not there yet
    assert fit(brain.root, head, cache, "--adapt", "lora", "--steps", "1") == 0
    assert Head.read(head).adaptation == "lora"
    split = json.loads((head.parent / "head.split.json").read_text())
    assert (len(split["train"]), len(split["test"])) == (8, 18)
    report = tmp_path / "report"
    options = ["--head", str(head), "--report", str(report), "--cache", str(cache)]
    assert eval_command.main([str(brain.root), *options, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "│ brain    │ lora       │ 2 shots │ soft  │ found │" in printed
    (row,) = json.loads((report / "summary.json").read_text())["rows"]
    assert (row["images"], row["trained_on"], row["focus"]) == (18, 8, "soft")
    page = (report / "report.html").read_text()
    assert "Was it the lesion?" in page
    assert str(tmp_path) not in page
    assert not any(entry["file"] in page for entry in split["test"])


def test_a_head_is_not_evaluated_on_its_training_images(
    brain: Dataset, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even where the split's file was exchanged for another."""
    head, other = tmp_path / "head.safetensors", tmp_path / "other.safetensors"
    assert fit(brain.root, head, cache) == 0
    assert fit(brain.root, other, cache, "--seed", "1") == 0
    path = tmp_path / "other.split.json"
    split = json.loads(path.read_text())
    learned = json.loads((tmp_path / "head.split.json").read_text())["train"]
    split["test"] = learned
    split["train"] = [entry for entry in split["train"] if entry not in learned]
    split["head"] = sha256(head.read_bytes()).hexdigest()
    path.write_text(json.dumps(split))
    path.replace(tmp_path / "head.split.json")
    capsys.readouterr()
    options = ["--head", str(head), "--report", str(tmp_path / "report"), "--cache", str(cache)]
    assert eval_command.main([str(brain.root), *options]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: 8 of 8 test images, {learned[0]['file']} first: ")
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "item"),
    [
        (["missing", "--head", "h.safetensors"], 4, "h.safetensors"),
        (["missing", "--grid"], 4, "missing"),
        (["missing", "--grid", "--adapt", "probe,magic"], 2, "--adapt 'magic'"),
        (["missing", "--grid", "--focus", "softly"], 2, "--focus 'softly'"),
        (["missing", "--grid", "--recipe", "covid,lung"], 2, "--recipe covid,lung"),
        (["phantoms", "--head", "h.safetensors"], 2, "--head"),
    ],
)
def test_what_eval_refuses(
    arguments: list[str],
    code: int,
    item: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert eval_command.main(arguments) == code
    shown = capsys.readouterr().err
    assert item in shown.partition(": ")[2].partition("Hint: ")[0]
    assert shown.count("\n") == 1
    assert [*tmp_path.iterdir()] == []


def test_what_fit_refuses(
    brain: Dataset, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, classes = tmp_path / "head.safetensors", tmp_path / "classes.txt"

    def refused(dataset: Path, out: Path, *more: str) -> tuple[int, str]:
        code = fit(dataset, out, cache, *more)
        shown = capsys.readouterr().err.splitlines()[-1]
        return code, shown.removeprefix("error: ").partition(". Hint: ")[0]

    code, error = refused(tmp_path / "missing", head)
    assert code == 4
    assert error.startswith(f"{tmp_path / 'missing'}: ")
    code, error = refused(brain.root, head, "--shots", "99")
    assert code == 2
    assert "99 shots" in error
    code, error = refused(brain.root, tmp_path / "head.pt")
    assert code == 2
    assert error.startswith(f"{tmp_path / 'head.pt'}: ")
    classes.write_text("\n".join(brain.classes[1:]))
    code, error = refused(brain.root, head, "--classes", str(classes))
    assert code == 2
    assert repr(brain.classes[0]) in error
    classes.write_text("\n".join([*brain.classes, "another"]))
    code, error = refused(brain.root, head, "--classes", str(classes))
    assert code == 2
    assert "'another'" in error
    for number in ("--seed", "-1"), ("--seed", str(2**32)), ("--steps", "0"), ("--shots", "0"):
        with pytest.raises(SystemExit, match="2"):
            fit(brain.root, head, cache, *number)
        assert number[0] in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == [classes]


def test_a_head_is_tested_on_all_of_another_data_set(
    brain: Dataset, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its predictions are listed; a data set with one of its training images is refused."""
    head, other = tmp_path / "head.safetensors", tmp_path / "other"
    assert fit(brain.root, head, cache) == 0
    chosen = sorted(brain.items, key=lambda item: item.label)[::4]
    for index, item in enumerate(chosen):
        folder = other / brain.classes[item.label]
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(item.path) as image:
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / f"{index}.png")
    report = tmp_path / "report"
    options = ["--head", str(head), "--report", str(report), "--cache", str(cache)]
    assert eval_command.main([str(other), *options]) == 0
    with (report / "answers.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == len(chosen)
    for row in rows:
        assert (other / row["file"]).is_file()
        assert row["file"].startswith(f"{row['truth']}/")
        shares = {name: float(row[name]) for name in brain.classes}
        assert sum(shares.values()) == pytest.approx(1)
        assert max(shares, key=shares.__getitem__) == row["answer"]
    learned = json.loads((tmp_path / "head.split.json").read_text())["train"][0]
    (tmp_path / "head.split.json").unlink()
    assert eval_command.main([str(other), *options]) == 0
    with Image.open(brain.root / learned["file"]) as image:
        image.save(other / learned["class"] / "copy.bmp")  # the same picture, in other bytes
    assert eval_command.main([str(other), *options]) == 2
    copy = f"{learned['class']}/copy.bmp"
    shown = capsys.readouterr().err
    assert f"error: 1 of {len(chosen) + 1} test images, {copy} first: " in shown


def test_unreadable_files_are_left_out_only_when_asked(
    brain: Dataset, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "brain"
    shutil.copytree(brain.root, folder)
    broken = []
    for part in ("train", "test"):
        item = next(item for item in brain.items if item.part == part)
        broken.append(folder / item.path.relative_to(brain.root.resolve()))
        broken[-1].write_text(f"no image to {part} on")
    head, report = tmp_path / "head.safetensors", tmp_path / "report"
    every = ["--fraction", "1", "--cache", str(cache), "-o", str(head)]
    assert fit_command.main([str(folder), *every]) == 4
    shown = capsys.readouterr().err
    assert f"error: 1 of {len(brain.items) // 2} files: " in shown
    assert str(broken[0]) in shown
    assert "--skip-bad" in shown
    assert not head.exists()
    assert fit_command.main([str(folder), *every, "--skip-bad"]) == 0
    shown = capsys.readouterr().err
    assert all(f"left out: {path}: " in shown for path in broken)
    assert "brain: 2 files left out" in shown
    split = json.loads((tmp_path / "head.split.json").read_text())
    assert len(split["train"]) == len(split["test"]) == len(brain.items) // 2 - 1

    # A test image that breaks later.
    broken.append(folder / split["test"][3]["file"])
    split["test"][3]["sha256"] = sha256(b"no image either").hexdigest()
    broken[-1].write_bytes(b"no image either")
    (tmp_path / "head.split.json").write_text(json.dumps(split))
    answer = [str(folder), "--head", str(head), "--report", str(report), "--cache", str(cache)]
    assert eval_command.main(answer) == 4
    shown = capsys.readouterr().err
    assert f"error: 1 of {len(split['test'])} files: " in shown
    assert str(broken[-1]) in shown
    assert not report.exists()
    assert eval_command.main([*answer, "--skip-bad"]) == 0
    assert f"left out: {broken[-1]}: " in capsys.readouterr().err
    (row,) = json.loads((report / "summary.json").read_text())["rows"]
    assert row["images"] == len(split["test"]) - 1


@pytest.mark.long
def test_a_grid_leaves_out_unreadable_files_only_when_asked(
    brain: Dataset, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, report = tmp_path / "brain", tmp_path / "report"
    shutil.copytree(brain.root, folder)
    item = next(item for item in brain.items if item.part == "test")
    broken = folder / item.path.relative_to(brain.root.resolve())
    broken.write_bytes(b"no image")
    options = ["--adapt", "zero-shot", "--focus", "none,soft", "--seeds", "1"]
    grid = [str(folder), "--grid", *options, "--report", str(report), "--cache", str(cache)]
    assert eval_command.main(grid) == 4
    shown = capsys.readouterr().err
    assert f"error: 1 of {len(brain.items)} files: " in shown
    assert str(broken) in shown
    assert eval_command.main([*grid, "--skip-bad"]) == 0
    assert "brain: 1 files left out" in capsys.readouterr().err
    summary = json.loads((report / "summary.json").read_text())
    rows = summary["rows"]
    assert summary["left_out"] == 1
    assert "Left out, since they cannot be used: 1 files" in (report / "report.html").read_text()
    assert {row["images"] for row in rows} == {len(brain.items) // 2 - 1}


def test_a_head_of_other_weights_is_refused(
    brain: Dataset, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = tmp_path / "head.safetensors"
    assert fit(brain.root, head, cache) == 0
    with safe_open(head, "pt") as file:
        assert set(file.metadata()) == {"head"}
    changed = Head.read(head)
    Head(**{**vars(changed), "clip_sha256": "0" * 64}).save(head)
    head.with_suffix(".split.json").unlink()
    options = ["--head", str(head), "--report", str(tmp_path / "report"), "--cache", str(cache)]
    capsys.readouterr()
    assert eval_command.main([str(brain.root), *options]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: head: ")
