"""`medfocus export` from the command line: output, exit codes, and files after a failure."""

import errno
import multiprocessing
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from medfocus.engine import Engine
from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.export.command import main
from medfocus.export.validate.images import phantoms
from medfocus.models.clip.class_names import read_classes
from medfocus.models.loading import SHIPPED

COMMAND = [sys.executable, "-m", "medfocus", "export"]


def export(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


@pytest.mark.long
def test_fp16_needs_no_other_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file, no network, no name for the engine; --inspect describes the result."""
    monkeypatch.chdir(tmp_path)
    assert export("--fp16", "--targets", "onnx,openvino") == 0
    shown = capsys.readouterr()
    manifest = read_engine_directory(tmp_path / "engines" / "tiny").manifest
    assert manifest.precision.dtype == "fp16"
    assert set(manifest.backends) == {"onnxruntime", "openvino"}
    for parity in manifest.parity.values():
        assert parity.images == 64
        assert parity.top1_agreement == 1.0
    for name in [*manifest.files, "onnxruntime", "openvino", "exporting the segmenter", "total"]:
        assert name in shown.out
    assert "exporting the segmenter" in shown.err
    assert "100.0% (0.98)" in shown.out

    assert export("--inspect", "engines/tiny") == 0
    shown = capsys.readouterr()
    assert shown.out.count("runs on cpu") == 2
    assert "every SHA-256 as in the manifest" in shown.out
    assert "100.0% (0.98)" in shown.out

    (prediction,) = Engine.load("engines/tiny").classify(phantoms(1)[0].pixels)
    assert prediction.label in manifest.classes

    with (tmp_path / "engines/tiny/segmenter.onnx.data").open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff")
    assert export("--inspect", "engines/tiny") == 4
    assert "segmenter.onnx.data: " in capsys.readouterr().err


def test_auto_reports_the_targets_that_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "medfocus.export.run.installed_targets",
        lambda dtype: (("torch",), {"tensorrt": "tensorrt is not installed"}),
    )
    assert export("-o", tmp_path / "engine") == 0
    assert "target tensorrt left out: tensorrt is not installed" in capsys.readouterr().err


class Bomb:
    """Code in a hostile checkpoint, which runs if it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self._trace),)


def _empty(folder: Path) -> list[str]:
    (folder / "classes.txt").write_text("\n\n")
    return ["--classes", str(folder / "classes.txt")]


def _duplicates(folder: Path) -> list[str]:
    (folder / "classes.txt").write_text("one\ntwo\none\n")
    return ["--classes", str(folder / "classes.txt")]


def _pointer(folder: Path) -> list[str]:
    (folder / "weights.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    return ["--sam2-weights", str(folder / "weights.pt")]


def _code(folder: Path) -> list[str]:
    (folder / "weights.pt").write_bytes(pickle.dumps(Bomb(folder / "ran")))
    return ["--clip-weights", str(folder / "weights.pt")]


def _code_in_a_zip(folder: Path) -> list[str]:
    torch.save({"weight": Bomb(folder / "ran")}, folder / "weights.pt")
    return ["--clip-weights", str(folder / "weights.pt")]


def _other_architecture(folder: Path) -> list[str]:
    return ["--sam2-weights", str(SHIPPED / "clip.safetensors")]


USAGE, INPUT_OUTPUT = 2, 4


@pytest.mark.parametrize(
    ("arguments", "code", "item"),
    [
        (_empty, USAGE, "classes.txt"),
        (_duplicates, USAGE, "classes.txt"),
        (_pointer, INPUT_OUTPUT, "weights.pt"),
        (_code, INPUT_OUTPUT, "weights.pt"),
        (_code_in_a_zip, INPUT_OUTPUT, "weights.pt"),
        (_other_architecture, INPUT_OUTPUT, "clip.safetensors"),
        (lambda _: ["--preset", "huge"], USAGE, "preset 'huge'"),
        (lambda _: ["--targets", "jax"], USAGE, "target 'jax'"),
        (lambda _: ["--targets", ""], USAGE, "target ''"),
        (lambda _: ["--batch", "1,x"], USAGE, "batch '1,x'"),
        (lambda _: ["--batch", "8,1"], USAGE, "batch"),
        (lambda _: ["--preset", "base"], USAGE, "classes"),
        (lambda _: ["--clip", "ViT-Z-99"], USAGE, "classes"),
        (lambda _: ["--segmenter-size", "100"], USAGE, "100"),
        (lambda folder: ["--calibration", str(folder / "none")], INPUT_OUTPUT, "none"),
        (lambda folder: ["--head", str(folder / "none")], INPUT_OUTPUT, "none"),
        (lambda _: ["--int8", "--targets", "torch"], USAGE, "int8"),
    ],
)
def test_bad_input_is_one_line_and_its_exit_code(
    arguments: Callable[[Path], list[str]],
    code: int,
    item: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = arguments(tmp_path)
    before = set(tmp_path.iterdir())
    targets = [] if "--targets" in given else ["--targets", "torch"]
    assert export("-o", tmp_path / "engine", *targets, *given) == code
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert item in shown.err.partition("Hint: ")[0]
    assert shown.out == ""
    assert set(tmp_path.iterdir()) == before, "nothing written, nothing run"


@pytest.mark.slow
def test_an_engine_that_the_parity_gate_refuses_is_3(tmp_path: Path) -> None:
    """SAM2 at a quarter of its size finds other regions."""
    options = ["--segmenter-size", "64", "--targets", "torch", "--batch", "1"]
    command = [*COMMAND, *options, "-o", str(tmp_path / "engine")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: segmenter size 64: ")
    assert "Traceback" not in done.stderr
    assert [*tmp_path.iterdir()] == []


@pytest.mark.slow
def test_ctrl_c_is_130_and_nothing_is_written(tmp_path: Path) -> None:
    """While float32's answers are computed, as the stage before them has just been reported."""
    command = [*COMMAND, "--bf16", "--targets", "torch", "-o", str(tmp_path / "engine")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    assert process.stderr.readline().startswith("loading weights")
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=300)
    assert process.returncode == 130, shown
    assert "interrupted" in shown.splitlines()
    assert "Traceback" not in shown
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "arguments", [["--fp16", "--bf16"], ["--classes", "a", "--head", "b"], ["--focus", "sharp"]]
)
def test_options_that_exclude_each_other(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        export(*arguments)
    assert caught.value.code == 2


def test_class_names_are_lines(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(" normal \n\n肺炎\n", encoding="utf-8")
    assert read_classes(tmp_path / "classes.txt") == ("normal", "肺炎")


def test_a_target_that_exists_is_replaced_only_with_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "engine"
    assert export("-o", out, "--targets", "torch", "--focus", "none") == 0
    (out / "note.txt").write_text("the user's own")
    capsys.readouterr()
    assert export("-o", out, "--targets", "torch") == 4
    assert capsys.readouterr().err.startswith(f"error: {out}: ")
    assert read_engine_directory(out).manifest.focus.mode == "none"
    assert (out / "note.txt").exists()
    assert export("-o", out, "--targets", "torch", "--force") == 0
    assert read_engine_directory(out).manifest.focus.mode == "soft"
    assert not (out / "note.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_a_folder_that_is_not_an_engine_is_kept_even_with_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("irreplaceable")
    assert export("-o", tmp_path / "thesis", "--targets", "torch", "--force") == 4
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'thesis'}: ")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "irreplaceable"


@pytest.mark.parametrize("bytes_left", [100_000, 4_000_000, 6_000_000])
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path, bytes_left: int) -> None:
    """A limit on the size of files stands for it: writes fail in the same way."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, bytes_left))

    out = tmp_path / "engine"
    assert export("-o", out, "--targets", "torch") == 0
    before = read_engine_directory(out).manifest
    command = [*COMMAND, "-o", str(out), "--targets", "onnx,torch", "--batch", "1", "--force"]
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, timeout=300)
    assert done.returncode == 4, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert os.strerror(errno.EFBIG) in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert read_engine_directory(out).manifest == before
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_a_read_only_place_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody may write to /sys, not even root, for whom no folder of a disk is read-only."""
    assert export("-o", "/sys/engine", "--targets", "torch") == 4
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: /sys/engine: ")


@pytest.mark.long
def test_twenty_kills_leave_the_former_engine_or_the_new(tmp_path: Path) -> None:
    """SIGKILL at random moments of its writing; what is at the target afterwards is always whole.

    Each export is forked from a process that has imported everything, so that the moments fall
    into its work.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medfocus.export.run"])
    out = tmp_path / "engine"

    def start(focus: str, *more: str) -> multiprocessing.process.BaseProcess:
        arguments = ["-o", str(out), "--targets", "torch", "--focus", focus, "--force", *more]
        process = context.Process(target=main, args=(arguments,))
        process.start()
        return process

    def writing() -> int | None:
        """Which folder is being written, or was when its writer was killed."""
        try:
            return (tmp_path / ".engine.staging").stat().st_ctime_ns
        except FileNotFoundError:
            return None

    for focus in ("soft", "none"):  # by the second, the server has imported what it preloads
        begun = time.monotonic()
        process = start(focus)
        process.join()
        whole = time.monotonic() - begun
        assert process.exitcode == 0
        assert read_engine_directory(out).manifest.focus.mode == focus
    draw = random.Random(11)
    killed = 0
    for number in range(20):
        before = read_engine_directory(out).manifest.focus.mode
        wanted = ("none", "soft")[number // 2 % 2]
        # Every second one is long in the gate, which float32 has not; the others end soon.
        gated = number % 2 == 0
        left_behind = writing()
        process = start(wanted, *(["--bf16", "--batch", "1"] if gated else []))
        while process.is_alive() and writing() == left_behind:
            time.sleep(0.001)
        process.join(draw.uniform(0.0, 1.0 if gated else 0.3) * whole)
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        assert read_engine_directory(out).manifest.focus.mode in (before, wanted)
    assert killed >= 10, "those in the gate at least"
    assert export("-o", out, "--targets", "torch", "--focus", "hard", "--force") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]
    assert read_engine_directory(out).manifest.focus.mode == "hard"
