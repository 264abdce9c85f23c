"""What an export writes, and what it refuses."""

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
from medfocus.models.loading import TINY
from tests.conftest import CLASSES, random_bundle
from tests.errors import refuses


def test_the_manifest_describes_the_models(engine_directory: Path) -> None:
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
        "check.safetensors",
    }


def test_the_weights_are_the_models(engine_directory: Path) -> None:
    bundle = random_bundle()
    for name, module in (("segmenter", bundle.segmenter), ("classifier", bundle.clip)):
        stored = load_file(engine_directory / f"{name}.safetensors")
        state = module.state_dict()
        assert set(stored) == set(state)
        assert all(torch.equal(stored[key], state[key]) for key in state)


def test_a_head_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    bundle = random_bundle()
    for head, code, named in (
        (replace(bundle.head, clip="ViT-B-16"), "head.model_mismatch", "ViT-B-16"),
        (replace(bundle.head, clip_sha256="2" * 64), "head.model_mismatch", TINY),
        (replace(bundle.head, focus="hard"), "head.focus_mismatch", "hard"),
    ):
        with refuses(InputError, code, "head") as caught:
            build(tmp_path / "engine", replace(bundle, head=head))
        assert named in caught.value.problem
    assert list(tmp_path.iterdir()) == []


def test_the_files_have_the_users_default_permissions(engine_directory: Path) -> None:
    """Whatever permissions the libraries that write them choose."""
    plain = engine_directory.parent / "plain"
    plain.touch()
    for path in engine_directory.iterdir():
        assert path.stat().st_mode == plain.stat().st_mode


def test_an_existing_target_is_kept_without_force(tmp_path: Path) -> None:
    build(tmp_path / "engine", random_bundle())
    before = (tmp_path / "engine" / "manifest.json").read_bytes()
    with refuses(EngineDirectoryError, "engine.exists", str(tmp_path / "engine")):
        build(tmp_path / "engine", random_bundle("none"))
    assert (tmp_path / "engine" / "manifest.json").read_bytes() == before
    build(tmp_path / "engine", random_bundle("none"), force=True)
    assert read_engine_directory(tmp_path / "engine").manifest.focus.mode == "none"


def export(tmp_path: Path, *arguments: str) -> int:
    return main(["-o", str(tmp_path / "engine"), "--targets", "torch", *arguments])


def test_the_command_builds_a_zero_shot_engine(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("smooth solid lesion\nhazy target lesion\n")
    out = tmp_path / "engine"
    rule = "focused:3"
    assert export(tmp_path, "--classes", str(tmp_path / "classes.txt"), "--join", rule) == 0
    manifest = read_engine_directory(out).manifest
    assert manifest.join == rule
    assert manifest.classes == ("smooth solid lesion", "hazy target lesion")


@pytest.mark.parametrize("content", ["", "a\na\n", "\n\n"])
def test_unusable_class_files_are_refused(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "classes.txt").write_text(content)
    assert export(tmp_path, "--classes", str(tmp_path / "classes.txt")) != 0
    assert "classes.txt" in capsys.readouterr().err
    assert not (tmp_path / "engine").exists()


def test_other_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = tmp_path / "head.safetensors"
    Head(**{**vars(random_bundle().head), "clip": "ViT-B-16"}).save(head)
    for arguments, named in (
        (["--preset", "huge"], "preset 'huge'"),
        (["--preset", "base"], "--clip-weights"),
        (["--clip-weights", str(tmp_path / "no.pt")], "no.pt"),
        ([], "ViT-B-16"),
    ):
        assert export(tmp_path, "--head", str(head), *arguments) != 0
        message = capsys.readouterr().err
        assert named in message
        assert message.splitlines()[-1].startswith("error: ")
        assert message.count("error") == 1
