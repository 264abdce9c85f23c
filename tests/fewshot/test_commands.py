"""`medfocus-fit` and `medfocus-eval` from the command line to the files."""

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


def test_a_head_is_not_evaluated_on_what_it_learned_from(
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
    path.write_text(json.dumps(split))
    path.replace(tmp_path / "head.split.json")
    capsys.readouterr()
    options = ["--head", str(head), "--report", str(tmp_path / "report"), "--cache", str(cache)]
    assert eval_command.main([str(brain.root), *options]) == 2
    said = capsys.readouterr().err
    assert f"8 of 8 test images, {learned[0]['file']} first: were trained on" in said
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["missing", "--head", "h.safetensors"], "no head file"),
        (["missing", "--grid"], "does not exist"),
        (["missing", "--grid", "--adapt", "probe,magic"], "'magic': is not known"),
        (["missing", "--grid", "--focus", "softly"], "'softly': is not known"),
        (["missing", "--grid", "--recipe", "covid,lung"], "is not one a data set"),
        (["phantoms", "--head", "h.safetensors"], "one data set"),
    ],
)
def test_what_eval_refuses(
    arguments: list[str],
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert eval_command.main(arguments) == 2
    assert problem in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


def test_what_fit_refuses(
    brain: Dataset, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = tmp_path / "head.safetensors"
    assert fit(tmp_path / "missing", head, cache) == 2
    assert fit(brain.root, head, cache, "--shots", "99") == 2
    assert fit(brain.root, tmp_path / "head.pt", cache) == 2
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(brain.classes[1:]))
    assert fit(brain.root, head, cache, "--classes", str(classes)) == 2
    classes.write_text("\n".join([*brain.classes, "another"]))
    assert fit(brain.root, head, cache, "--classes", str(classes)) == 2
    for number in ("--seed", "-1"), ("--seed", str(2**32)), ("--steps", "0"):
        with pytest.raises(SystemExit, match="2"):
            fit(brain.root, head, cache, *number)
    text = capsys.readouterr().err
    assert "does not exist" in text
    assert "files to train on, fewer than 99 shots" in text
    assert "head.pt: is no name of a head file" in text
    assert f"is labelled {brain.classes[0]!r}, which is not in the class list" in text
    assert "class 'another': has no file in brain" in text
    assert "-1 is not between 0 and 4294967295" in text
    assert [*tmp_path.iterdir()] == [classes]


def test_a_head_is_tested_on_another_data_set_as_a_whole(
    brain: Dataset, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And its answers are listed; where one of them was learned from, that is refused."""
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
    said = capsys.readouterr().err
    assert f"1 of {len(chosen) + 1} test images, {copy} first: were trained on" in said


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
    assert fit_command.main([str(folder), *every]) == 2
    said = capsys.readouterr().err
    assert f"1 of {len(brain.items) // 2} files: cannot be used: {broken[0]}" in said
    assert "--skip-bad" in said
    assert not head.exists()
    assert fit_command.main([str(folder), *every, "--skip-bad"]) == 0
    said = capsys.readouterr().err
    assert all(f"left out: {path}: " in said for path in broken)
    assert "brain: 2 files left out" in said
    split = json.loads((tmp_path / "head.split.json").read_text())
    assert len(split["train"]) == len(split["test"]) == len(brain.items) // 2 - 1

    # A test image that breaks later.
    broken.append(folder / split["test"][3]["file"])
    split["test"][3]["sha256"] = sha256(b"no image either").hexdigest()
    broken[-1].write_bytes(b"no image either")
    (tmp_path / "head.split.json").write_text(json.dumps(split))
    answer = [str(folder), "--head", str(head), "--report", str(report), "--cache", str(cache)]
    assert eval_command.main(answer) == 2
    assert f"1 of {len(split['test'])} files: cannot be used: {broken[-1]}" in (
        capsys.readouterr().err
    )
    assert not report.exists()
    assert eval_command.main([*answer, "--skip-bad"]) == 0
    assert f"left out: {broken[-1]}: " in capsys.readouterr().err
    (row,) = json.loads((report / "summary.json").read_text())["rows"]
    assert row["images"] == len(split["test"]) - 1


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
    assert eval_command.main(grid) == 2
    assert f"1 of {len(brain.items)} files: cannot be used: {broken}" in capsys.readouterr().err
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
    options = ["--head", str(head), "--report", str(tmp_path / "report"), "--cache", str(cache)]
    assert eval_command.main([str(brain.root), *options]) == 2
    assert "other weights" in capsys.readouterr().err
