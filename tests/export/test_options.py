"""Options of export that the manifest records: class prompts, SAM2's prompts, selection."""

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.artifact.manifest import Manifest
from medfocus.export.command import main
from medfocus.models.head import Head
from medfocus.models.loading import load_clip
from medfocus.models.presets import ZERO_SHOT
from medfocus.settings import Selection
from tests.conftest import random_bundle


def export(folder: Path, *arguments: str | Path) -> int:
    out = ["-o", str(folder / "engine"), "--targets", "torch"]
    return main([*out, *map(str, arguments)])


def manifest(folder: Path) -> Manifest:
    return read_engine_directory(folder / "engine").manifest


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """A head for the shipped models."""
    loaded = load_clip("medfocus_tiny")
    content = replace(random_bundle().head, clip_sha256=loaded.sha256)
    content.save(tmp_path / "head.safetensors")
    return tmp_path / "head.safetensors"


def test_the_defaults_are_those_of_the_settings(tmp_path: Path) -> None:
    assert export(tmp_path) == 0
    found = manifest(tmp_path)
    assert found.prompts == ZERO_SHOT
    assert found.selection == Selection()
    assert found.class_prompts == ("This is a photo of {class}",)


def test_everything_is_recorded_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--prompt-grid", "2", "--min-area", "0.01", "--max-area", "0.5"]
    options += ["--min-score", "0.4", "--stability-offset", "0.5", "--selection", "union"]
    options += ["--class-prompt", "a scan of {class}", "--class-prompt", "{class}"]
    assert export(tmp_path, *options) == 0
    found = manifest(tmp_path)
    third = 1 / 3
    places = ((third, third), (2 * third, third), (third, 2 * third), (2 * third, 2 * third))
    assert found.prompts.points == tuple((place,) for place in places)
    assert found.prompts.labels == ((1,),) * 4
    assert found.selection == Selection("union", 0.01, 0.5, 0.4, 0.5)
    assert found.class_prompts == ("a scan of {class}", "{class}")
    capsys.readouterr()
    assert main(["--inspect", str(tmp_path / "engine")]) == 0
    shown = capsys.readouterr().out
    for part in ("a scan of {class}", "0.01 to 0.5", "0.4", "±0.5", "union"):
        assert part in shown


def test_prompts_of_a_file(tmp_path: Path) -> None:
    """A box with a point outside of the region, as in an engine's manifest."""
    content = {"points": [[[0.1, 0.2], [0.9, 0.8], [0.5, 0.5]]], "labels": [[2, 3, 0]]}
    (tmp_path / "prompts.json").write_text(json.dumps(content))
    assert export(tmp_path, "--prompts", tmp_path / "prompts.json") == 0
    assert json.loads(json.dumps(asdict(manifest(tmp_path).prompts))) == content


@pytest.mark.parametrize(
    ("options", "item"),
    [
        (["--min-score", "1.5"], "min_score"),
        (["--min-area", "0.7"], "max_area"),
        (["--max-area", "nan"], "max_area"),
        (["--stability-offset", "inf"], "stability_offset"),
        (["--class-prompt", "a scan"], "class prompt 'a scan'"),
        (["--class-prompt", "{class} {class}"], "class prompt"),
        (["--class-prompt", "a {} of {class}"], "class prompt"),
        (["--class-prompt", "\x1b{class}"], "class prompt"),
        (["--prompts", '{"points": [[[0.5, 1.5]]], "labels": [[1]]}'], "prompts.json: points"),
        (["--prompts", '{"points": [[[0.5, 0.5]]], "labels": [[7]]}'], "prompts.json: labels"),
        (["--prompts", '{"points": [[[0.5, 0.5]]]}'], "prompts.json: labels"),
        (["--prompts", "[" * 100_000], "prompts.json"),
        (["--prompts", "[]"], "prompts.json"),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(
    tmp_path: Path, options: list[str], item: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if options[0] == "--prompts":
        (tmp_path / "prompts.json").write_text(options[1])
        options = ["--prompts", str(tmp_path / "prompts.json")]
    assert export(tmp_path, *options) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert item in shown.partition("Hint: ")[0]
    assert not (tmp_path / "engine").exists()


def test_a_prompts_file_that_is_missing_is_4(tmp_path: Path) -> None:
    assert export(tmp_path, "--prompts", tmp_path / "none.json") == 4


def test_a_head_has_class_embeddings_of_its_own(
    tmp_path: Path, head: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(tmp_path, "--head", head, "--class-prompt", "a scan of {class}") == 2
    assert "class prompt" in capsys.readouterr().err
    assert export(tmp_path, "--head", head) == 0
    assert manifest(tmp_path).class_prompts == ()
    assert Head.read(head).classes == manifest(tmp_path).classes


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], 0),
        (["--prompt-grid", "3", "--min-score", "0.3"], 0),
        (["--prompt-grid", "2"], 1),
        (["--selection", "union"], 1),
    ],
)
def test_a_head_that_saw_other_masks_is_a_warning(
    tmp_path: Path, head: Path, options: list[str], expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert export(tmp_path, "--head", head, *options) == 0
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == expected
