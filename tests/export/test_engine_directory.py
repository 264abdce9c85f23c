"""What export writes, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.errors import EngineDirectoryError, InputError
from medfocus.export.command import main
from medfocus.export.engine_directory import build
from medfocus.models.head import Head
from tests.conftest import CLASSES, random_bundle


def test_the_manifest_says_what_was_given(engine_directory: Path) -> None:
    manifest = read_engine_directory(engine_directory).manifest
    assert manifest.classes == CLASSES
    assert manifest.models.clip.weights_sha256 == "0" * 64
    assert manifest.models.sam2.image_size == manifest.preprocessing.segmenter.size == 256
    assert manifest.preprocessing.classifier.patch_grid == 14
    assert len(manifest.prompts.points) == 9
    assert set(manifest.files) == {
        "segmenter.safetensors",
        "classifier.safetensors",
        "head.safetensors",
    }


def test_the_weights_are_the_models(engine_directory: Path) -> None:
    parts = random_bundle()
    for name, module in (("segmenter", parts.segmenter), ("classifier", parts.clip)):
        stored = load_file(engine_directory / f"{name}.safetensors")
        state = module.state_dict()
        assert set(stored) == set(state)
        assert all(torch.equal(stored[key], state[key]) for key in state)


def test_a_head_of_another_clip_is_refused(tmp_path: Path) -> None:
    parts = random_bundle()
    for other, problem in (
        (replace(parts.head, clip="ViT-B-16"), "was made for ViT-B-16"),
        (replace(parts.head, clip_sha256="2" * 64), "other weights"),
        (replace(parts.head, focus="hard"), "focus hard"),
    ):
        with pytest.raises(InputError, match=f"head: .*{problem}"):
            build(tmp_path / "engine", replace(parts, head=other))
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_can_be_read_by_others(engine_directory: Path) -> None:
    """As any file that this user creates, whatever the library's own habit."""
    plain = engine_directory.parent / "plain"
    plain.touch()
    for path in engine_directory.iterdir():
        assert path.stat().st_mode == plain.stat().st_mode


def test_a_target_that_exists_is_kept_without_force(tmp_path: Path) -> None:
    build(tmp_path / "engine", random_bundle())
    before = (tmp_path / "engine" / "manifest.json").read_bytes()
    with pytest.raises(EngineDirectoryError, match="exists"):
        build(tmp_path / "engine", random_bundle("none"))
    assert (tmp_path / "engine" / "manifest.json").read_bytes() == before
    build(tmp_path / "engine", random_bundle("none"), force=True)
    assert read_engine_directory(tmp_path / "engine").manifest.focus.mode == "none"


def test_the_command_builds_a_zero_shot_engine(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("smooth solid lesion\nhazy target lesion\n")
    out = tmp_path / "engine"
    assert (
        main(["--classes", str(tmp_path / "classes.txt"), "-o", str(out), "--targets", "torch"])
        == 0
    )
    manifest = read_engine_directory(out).manifest
    assert manifest.classes == ("smooth solid lesion", "hazy target lesion")


@pytest.mark.parametrize("content", ["", "a\na\n", "\n\n"])
def test_class_files_that_cannot_be_used(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "classes.txt").write_text(content)
    out = tmp_path / "engine"
    assert (
        main(["--classes", str(tmp_path / "classes.txt"), "-o", str(out), "--targets", "torch"])
        == 2
    )
    assert "classes.txt" in capsys.readouterr().err
    assert not out.exists()


def test_other_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = tmp_path / "head.safetensors"
    parts = random_bundle()
    Head(**{**vars(parts.head), "clip": "ViT-B-16"}).save(head)
    for arguments, problem in (
        (["--preset", "huge"], "preset 'huge'"),
        (["--preset", "base"], "none are shipped"),
        (["--clip-weights", str(tmp_path / "no.pt")], "no such file"),
        ([], "was made for ViT-B-16"),
    ):
        assert (
            main(
                [
                    "--head",
                    str(head),
                    "-o",
                    str(tmp_path / "engine"),
                    "--targets",
                    "torch",
                    *arguments,
                ]
            )
            == 2
        )
        message = capsys.readouterr().err
        assert problem in message
        assert message.splitlines()[-1].startswith("error: ")
        assert message.count("error") == 1
