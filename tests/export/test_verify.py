"""`medfocus export --verify`: exit codes, and what is shown."""

from pathlib import Path

import pytest

from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.artifact.layout import CHECK_IMAGES, CLASSIFIER_WEIGHTS
from medfocus.errors import InputError
from medfocus.export import verify as verify_module
from medfocus.export.command import main
from tests.engine.checking.spoil import copied, signed, spoil_onnx, spoil_weights

LAYER = "visual.transformer.resblocks.3.mlp.c_fc.weight"


def verify(engine: Path) -> int:
    return main(["--verify", str(engine)])


@pytest.mark.slow
def test_every_backend_that_runs_here_is_compared(
    exported_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(exported_engine) == 0
    shown = capsys.readouterr()
    for name in ("onnxruntime", "openvino", "torch", "embedding cosine", "mask IoU"):
        assert name in shown.out
    assert shown.out.count("passes on") == 3
    spoilt = spoil_onnx(copied(exported_engine, tmp_path / "engine"), "classifier.onnx", 1.2)
    assert verify(spoilt) == 3
    shown = capsys.readouterr()
    assert shown.out.count("passes on") == 1, "torch has weights of its own"
    assert "embedding_cosine" in shown.err


def test_an_engine_that_was_spoiled_is_3_and_its_figures_are_shown(
    engine_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = copied(engine_directory, tmp_path / "engine")
    assert verify(engine) == 0
    capsys.readouterr()
    assert verify(spoil_weights(engine, CLASSIFIER_WEIGHTS, LAYER, 1.01)) == 3
    shown = capsys.readouterr()
    assert shown.err.startswith("error: torch in fp32 on cpu: ")
    assert "embedding cosine" in shown.out


def test_weights_that_are_not_numbers_are_found(engine_directory: Path, tmp_path: Path) -> None:
    engine = copied(engine_directory, tmp_path / "engine")
    assert verify(spoil_weights(engine, CLASSIFIER_WEIGHTS, LAYER, float("nan"))) == 3


def test_a_changed_byte_is_found_before_anything_runs(
    engine_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = copied(engine_directory, tmp_path / "engine")
    with (engine / CHECK_IMAGES).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x07")
    assert verify(engine) == 4
    shown = capsys.readouterr()
    assert shown.out == ""
    assert CHECK_IMAGES in shown.err


def test_an_engine_without_check_images_is_4(
    engine_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = copied(engine_directory, tmp_path / "engine")
    manifest = read_engine_directory(engine).manifest
    (engine / CHECK_IMAGES).unlink()
    assert verify(signed(engine, manifest)) == 4
    assert str(engine) in capsys.readouterr().err


def test_an_engine_that_nothing_here_runs_is_not_called_verified(
    engine_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object) -> None:
        raise InputError("backend torch", "torch is not installed", "install it")

    monkeypatch.setattr(verify_module, "load_backend", missing)
    assert verify(engine_directory) == 2
    assert "torch is not installed" in " ".join(capsys.readouterr().out.split())
