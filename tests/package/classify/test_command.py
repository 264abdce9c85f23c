"""`medfocus-classify` with an engine that counts: inputs, results, resuming, exit status."""

import csv
import errno
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medfocus.classify import command as classify_command
from medfocus.classify.command import main
from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.evidence.files import evidence_name
from medfocus.engine.io.notices import Notice
from medfocus.engine.prediction import Prediction
from medfocus.errors import DeviceError, EngineDirectoryError, MedfocusError
from tests.conftest import CLASSES
from tests.engine.artifact.test_manifest import MANIFEST
from tests.engine.io.read import read_images

NOTICES = Notice("pixels.constant", "first"), Notice("pixels.no_window", "second")


class CountingEngine:
    """Answers with an image's mean brightness, and keeps which paths it was asked for."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.max_batch = manifest.buckets[-1]
        self.batches: list[list[str]] = []
        self.before_batch: Callable[[int], None] = lambda number: None

    @property
    def seen(self) -> list[str]:
        return [Path(path).name for batch in self.batches for path in batch]

    def stream_each(
        self, sources: Iterable[Path], *, boxes: Iterable[object], keep_masks: bool
    ) -> Iterator[list[Prediction]]:
        pulled = iter(sources)
        while batch := [*islice(pulled, self.max_batch)]:
            self.before_batch(len(self.batches))
            self.batches.append([str(path) for path in batch])
            yield from map(self._answers, batch)

    def _answers(self, path: Path) -> list[Prediction]:
        try:
            images = read_images(path)
        except MedfocusError as error:
            return [Prediction(str(path), None, {}, False, None, None, None, None, (), error)]
        return [self._answer(image.source, image.pixels) for image in images]

    def _answer(self, source: str, pixels: np.ndarray) -> Prediction:
        bright = float(pixels.mean()) / 255
        values = (bright, (1 - bright) * 0.75, (1 - bright) * 0.25)
        probabilities = dict(zip(self.manifest.classes, values, strict=True))
        best = max(probabilities, key=lambda name: probabilities[name])
        size = (pixels.shape[0], pixels.shape[1])
        logits, patches = np.ones((8, 8), np.float32), np.ones((2, 2), np.float32)
        return Prediction(source, best, probabilities, True, 0.5, logits, size, patches, NOTICES)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> CountingEngine:
    fake = CountingEngine(MANIFEST)

    class Loader:
        @staticmethod
        def load(path: str, *, max_batch: int | None, **_: object) -> CountingEngine:
            if path == "broken":
                raise EngineDirectoryError(path, "is not an engine directory", "export it")
            fake.max_batch = max_batch or MANIFEST.buckets[-1]
            return fake

    monkeypatch.setattr(classify_command, "Engine", Loader)
    return fake


def picture(path: Path, value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (20, 10), value).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five images, which are brighter in the order of their names."""
    monkeypatch.chdir(tmp_path)
    for number in range(5):
        picture(Path("images", f"{number}.png"), 50 * number)
    return Path("images")


# --- inputs


@pytest.mark.parametrize("text", ["absent.png", "empty", "*.jpg", ""])
def test_an_input_that_gives_nothing_is_an_error(
    folder: Path, engine: CountingEngine, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    Path("empty").mkdir()
    Path("empty", "notes.txt").touch()
    assert main(["engine", "images", text]) == 4
    assert capsys.readouterr().err.startswith(f"error: {text or 'an empty INPUT'}: ")
    assert not engine.batches


# --- results


def test_json_holds_every_prediction(
    folder: Path, engine: CountingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("images", "2.png").write_bytes(b"broken")
    assert main(["engine", "images", "--format", "json"]) == 1
    output = capsys.readouterr()
    rows = json.loads(output.out)
    assert [row["source"] for row in rows] == [f"images/{number}.png" for number in range(5)]
    assert rows[4] == {
        "source": "images/4.png",
        "label": MANIFEST.classes[0],
        "probabilities": dict(
            zip(MANIFEST.classes, [200 / 255, 55 / 255 * 0.75, 55 / 255 * 0.25], strict=True)
        ),
        "focused": True,
        "focus_score": 0.5,
        "warnings": ["first", "second"],
        "warning_codes": ["pixels.constant", "pixels.no_window"],
        "error": None,
    }
    assert rows[2]["label"] is None
    assert "images/2.png" in rows[2]["error"]
    assert "4 classified, 1 failed" in output.err
    assert rows[2]["error"] in output.err


def test_csv_holds_every_prediction(folder: Path, engine: CountingEngine) -> None:
    picture(Path("images", 'a, "b".png'), 255)
    Path("images", "2.png").write_bytes(b"broken")
    assert main(["engine", "images", "-o", "out.csv"]) == 1
    rows = list(csv.DictReader(io.StringIO(Path("out.csv").read_text())))
    columns = [f"probability:{name}" for name in MANIFEST.classes]
    assert list(rows[0]) == [
        *("source", "label", "probability", "focused", "focus_score"),
        *columns,
        *("warnings", "error"),
    ]
    assert [row["source"] for row in rows][-1] == 'images/a, "b".png'
    assert float(rows[4][columns[1]]) == 55 / 255 * 0.75
    assert float(rows[4]["probability"]) == 200 / 255
    assert rows[4]["focused"] == "true"
    assert rows[4]["warnings"] == "first; second"
    assert rows[2]["error"]
    assert {rows[2][name] for name in ("label", "probability", *columns)} == {""}


def test_table_aligns_and_escapes(
    folder: Path, engine: CountingEngine, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    picture(Path("images", "[red]x\x1b[31m.png"), 255)
    assert main(["engine", "images"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if ".png" in line]
    assert len(rows) == 6
    assert len({tuple(i for i, letter in enumerate(line) if letter == "│") for line in rows}) == 1
    assert [cell.strip() for cell in rows[4].split("│")[1:-1]] == [
        *("4.png", MANIFEST.classes[0], "78.4%", "0.50", "first; second"),
    ]
    assert "[red]x�[31m.png" in rows[5]
    assert "images/" not in "".join(rows)


def test_frames_of_a_file_are_rows_of_their_own(folder: Path, engine: CountingEngine) -> None:
    frames = [Image.new("L", (8, 8), value) for value in (0, 255, 0)]
    frames[0].save("images/1.tif", save_all=True, append_images=frames[1:])
    arguments = ["engine", "images", "-o", "out.json", "--overlays", "pictures"]
    assert main(arguments) == 0
    sources = [row["source"] for row in json.loads(Path("out.json").read_text())]
    assert sources[1:6] == [
        *("images/1.png", "images/1.tif#0", "images/1.tif#1", "images/1.tif#2", "images/2.png"),
    ]
    assert {path.name for path in Path("pictures").iterdir()} == {
        evidence_name(source, "png") for source in sources
    }


def test_names_that_are_not_utf8_are_escaped(folder: Path, engine: CountingEngine) -> None:
    name = os.fsdecode(b"images/\xff.png")
    picture(Path(name))
    assert main(["engine", "images", "-o", "out.json", "--overlays", "pictures"]) == 0
    assert json.loads(Path("out.json").read_bytes())[-1]["source"] == name
    assert main(["engine", "images", "-o", "out.csv"]) == 0
    assert r"images/\udcff.png" in Path("out.csv").read_text(encoding="utf-8")


def test_batches_have_the_size_asked_for(folder: Path, engine: CountingEngine) -> None:
    main(["engine", "images", "--batch-size", "2"])
    assert [len(batch) for batch in engine.batches] == [2, 2, 1]
    engine.batches.clear()
    main(["engine", "images"])
    assert [len(batch) for batch in engine.batches] == [5]


def test_overlay_names_are_unique_and_stay_inside() -> None:
    sources = ["a/x.png", "b/x.png", "../x.png", "/x.png", "x.png#1", "a/..", "..", "", "肺" * 300]
    sources += ["a/x.png#0", "a/x png", "a/x_png", ".hidden", "a" * 4000]
    names = [evidence_name(source, "png") for source in sources]
    assert len(set(names)) == len(names)
    for name in names:
        assert Path(name).name == name
        assert not name.startswith(".")
        assert len(name.encode()) < 200


def test_own_output_is_not_taken_for_input(folder: Path, engine: CountingEngine) -> None:
    output = ["-o", "images/result", "--format", "json", "--overlays", "images/overlays"]
    for _ in range(2):
        assert main(["engine", "images", *output]) == 0
        assert len(json.loads(Path("images/result").read_text())) == 5


@pytest.fixture
def study(folder: Path) -> Path:
    """The images in a zip archive, in which the checksum of one is wrong."""
    path = Path("study.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"a/{file.name}")
    data, checksum = path.read_bytes(), zlib.crc32(Path("images/2.png").read_bytes())
    path.write_bytes(data.replace(checksum.to_bytes(4, "little"), b"\0\1\2\3"))
    return path


def test_images_in_an_archive_are_named_by_it(study: Path, engine: CountingEngine) -> None:
    arguments = ["engine", "images", str(study), "-o", "out.json", "--overlays", "pictures"]
    assert main([*arguments, "--batch-size", "2"]) == 1
    rows = json.loads(Path("out.json").read_text())
    assert [row["source"] for row in rows[5:]] == [f"study.zip/a/{n}.png" for n in range(5)]
    for plain, inside in zip(rows[:5], rows[5:], strict=True):
        if inside["source"] == "study.zip/a/2.png":
            assert inside["error"].startswith("study.zip/a/2.png: ")
        else:
            assert inside == {**plain, "source": inside["source"]}
    good = [row["source"] for row in rows if not row["error"]]
    assert {path.name for path in Path("pictures").iterdir()} == {
        evidence_name(source, "png") for source in good
    }
    copies = [Path(path) for batch in engine.batches for path in batch if "images" not in path]
    assert len(copies) == 4
    assert not any(copy.exists() or copy.parent.exists() for copy in copies)


def test_an_unreadable_image_in_an_archive_is_named_by_it(
    folder: Path, engine: CountingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile("study.zip", "w") as archive:
        archive.writestr("x.png", b"no image")
    assert main(["engine", "study.zip", "--format", "json"]) == 1
    shown = capsys.readouterr()
    (row,) = json.loads(shown.out)
    assert row["source"] == "study.zip/x.png"
    assert row["error"].startswith("study.zip/x.png: ")
    assert tempfile.gettempdir() not in shown.out + shown.err.replace(str(Path.cwd()), "")


def test_a_run_on_an_archive_resumes(study: Path, engine: CountingEngine) -> None:
    interrupt(engine, 1, KeyboardInterrupt)
    arguments = ["engine", str(study), "-o", "out.json", "--batch-size", "2"]
    assert main(arguments) == 130
    resume(engine)
    assert main(arguments) == 1
    assert len(engine.seen) == 2
    sources = [row["source"] for row in json.loads(Path("out.json").read_text())]
    assert sources == [f"study.zip/a/{n}.png" for n in range(5)]


def test_what_is_skipped_is_counted_and_named(
    folder: Path, engine: CountingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(7):
        Path(f"images/{number}.txt").write_text("a text")
    Path("images/loop").symlink_to(".")
    picture(Path("images/__MACOSX/x.png"))
    assert main(["engine", "images"]) == 0
    shown = capsys.readouterr().err
    assert "skipped 7 files" in shown
    assert "images/4.txt" in shown
    assert "images/5.txt" not in shown
    assert "images/loop" in shown
    assert "images/__MACOSX" in shown
    assert main(["engine", "images", "-v"]) == 0
    assert "images/6.txt" in capsys.readouterr().err
    assert main(["engine", "images", "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_inputs_are_listed_in_a_file(folder: Path, engine: CountingEngine) -> None:
    Path("list").write_text("images/3.png\n\nimages/1.png\n")
    assert main(["engine", "--from", "list", "-o", "out.csv"]) == 0
    assert engine.seen == ["3.png", "1.png"]


# --- where results go


def test_json_lines_are_the_objects_of_json(folder: Path, engine: CountingEngine) -> None:
    picture(Path("images", "line\nbreak\u2028.png"))
    assert main(["engine", "images", "-o", "out.jsonl"]) == 0
    assert main(["engine", "images", "-o", "out.json"]) == 0
    lines = Path("out.jsonl").read_bytes().decode().split("\n")
    assert lines.pop() == ""
    assert [json.loads(line) for line in lines] == json.loads(Path("out.json").read_text())


def test_a_link_is_written_through_and_a_mode_kept(folder: Path, engine: CountingEngine) -> None:
    Path("real").mkdir()
    Path("real/out.json").write_text("before")
    Path("real/out.json").chmod(0o600)
    Path("out.json").symlink_to("real/out.json")
    interrupt(engine, 2, KeyboardInterrupt)
    assert main(RESUMABLE) == 130
    resume(engine)
    assert main([*RESUMABLE[:3], "real/out.json"]) == 0  # the same file, and so the same journal
    assert engine.seen == ["4.png"]
    assert main(RESUMABLE) == 0
    assert Path("out.json").is_symlink()
    assert len(json.loads(Path("real/out.json").read_text())) == 5
    assert Path("real/out.json").stat().st_mode & 0o777 == 0o600
    assert {path.name for path in Path("real").iterdir()} == {"out.json"}


def test_a_stream_is_written_to(
    folder: Path, engine: CountingEngine, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["engine", "images", "-o", "out.csv"]) == 0
    expected = Path("out.csv").read_bytes()
    Path("out.csv").unlink()
    capfdbinary.readouterr()
    for stream in ("-", "/dev/stdout"):
        assert main(["engine", "images", "-o", stream, "--format", "csv"]) == 0
        assert capfdbinary.readouterr().out == expected
    os.mkfifo("pipe.csv")
    with os.fdopen(os.open("pipe.csv", os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        assert main(["engine", "images", "-o", "pipe.csv"]) == 0
        assert reader.read() == expected
    assert {path.name for path in Path().iterdir()} == {"images", "pipe.csv"}


def test_a_file_that_stdout_goes_to_is_appended_to(folder: Path, engine_directory: Path) -> None:
    Path("log.csv").write_text("before\n")
    arguments = command(engine_directory, "images", "-o", "/dev/stdout", "--format", "csv")
    with Path("log.csv").open("ab") as stream:
        subprocess.run(arguments, stdout=stream, stderr=subprocess.PIPE, check=True)
    lines = Path("log.csv").read_text().splitlines()
    assert len(lines) == 7
    assert lines[0] == "before"


def test_two_runs_do_not_write_one_file(
    folder: Path, engine: CountingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = []

    def second(number: int) -> None:
        engine.before_batch = lambda _: None
        with Path("out.json.partial").open() as journal:
            before = journal.read()
        for name in ("out.json", "link.json"):
            codes.append(main([*RESUMABLE[:3], name]))
        assert Path("out.json.partial").read_text() == before

    Path("link.json").symlink_to("out.json")
    engine.before_batch = second
    assert main(RESUMABLE) == 0
    assert codes == [4, 4]
    assert "error: out.json: is being written" in capsys.readouterr().err
    assert len(engine.seen) == 5
    assert main(RESUMABLE) == 0  # the lock ends with its run


def test_a_file_of_somebody_else_is_kept(
    folder: Path, engine: CountingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("a download\n", '{"other": 1}\n', "{}"):
        Path("out.json.partial").write_text(text)
        for more in ([], ["--restart"]):
            assert main([*RESUMABLE, *more]) == 4
            assert capsys.readouterr().err.startswith("error: out.json.partial: ")
        assert Path("out.json.partial").read_text() == text
    assert not engine.batches


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_with_few_characters_shows_what_it_can(
    folder: Path, engine: CountingEngine, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    picture(Path("images", "肺 1.png"), 255)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["engine", "images"]) == 0
    terminal.flush()
    shown = terminal.buffer.getvalue().decode(encoding)
    assert "? 1.png" in shown
    assert "4.png" in shown


# --- resuming

RESUMABLE = ["engine", "images", "-o", "out.json", "--batch-size", "2"]


def interrupt(engine: CountingEngine, batch: int, error: type[BaseException]) -> None:
    def before(number: int) -> None:
        if number == batch:
            raise error

    engine.before_batch = before


def resume(engine: CountingEngine) -> None:
    engine.before_batch = lambda number: None
    engine.batches.clear()


def test_an_interrupted_run_resumes(
    folder: Path, engine: CountingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(RESUMABLE) == 0
    expected = Path("out.json").read_bytes()
    Path("out.json").unlink()
    resume(engine)
    interrupt(engine, 2, KeyboardInterrupt)
    assert main(RESUMABLE) == 130
    shown = capsys.readouterr().err.splitlines()
    assert shown[-2] == "interrupted"
    assert "resume" in shown[-1]
    assert not Path("out.json").exists()
    resume(engine)
    assert main(RESUMABLE) == 0
    assert engine.seen == ["4.png"]
    assert "4 of 5 files" in capsys.readouterr().err
    assert Path("out.json").read_bytes() == expected
    assert {path.name for path in Path().iterdir()} == {"images", "out.json"}
    resume(engine)
    assert main(RESUMABLE) == 0
    assert len(engine.seen) == 5  # a finished run leaves nothing to resume


def test_an_interrupt_without_output_says_that_nothing_is_kept(
    folder: Path, engine: CountingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(engine, 0, KeyboardInterrupt)
    assert main(["engine", "images"]) == 130
    assert "with -o FILE" in capsys.readouterr().err


def stopped(engine: CountingEngine) -> Path:
    interrupt(engine, 2, KeyboardInterrupt)
    assert main(RESUMABLE) == 130
    resume(engine)
    return Path("out.json.partial")


def test_a_truncated_journal_is_used_up_to_its_last_complete_line(
    folder: Path, engine: CountingEngine
) -> None:
    journal = stopped(engine)
    whole = journal.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == 5  # the run's own line and four files
    for length in range(0, len(whole) + 1, 13):
        journal.write_bytes(whole[:length])
        resume(engine)
        interrupt(engine, 0, KeyboardInterrupt)
        assert main(RESUMABLE) == 130
        complete = [end for end in ends if end <= length]
        # Cut back to its last complete line; to the run's own if that is incomplete.
        assert journal.read_bytes() == whole[: complete[-1] if complete else ends[0]]
        resume(engine)
        assert main(RESUMABLE) == 0
        assert len(engine.seen) == 5 - max(0, len(complete) - 1)
        assert len(json.loads(Path("out.json").read_text())) == 5


def test_a_damaged_line_and_what_follows_is_dropped(folder: Path, engine: CountingEngine) -> None:
    journal = stopped(engine)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:2], b"\xff\0damaged\n", *lines[3:]]))
    assert main(RESUMABLE) == 0
    assert engine.seen == ["1.png", "2.png", "3.png", "4.png"]


def test_a_changed_file_is_run_again(folder: Path, engine: CountingEngine) -> None:
    stopped(engine)
    status = Path("images/1.png").stat()
    os.utime("images/1.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with Path("images/2.png").open("ab") as stream:
        stream.write(b"\0")
    os.utime("images/2.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert main(RESUMABLE) == 0
    assert engine.seen == ["1.png", "2.png", "4.png"]


def test_a_failed_file_is_tried_again(folder: Path, engine: CountingEngine) -> None:
    Path("images/0.png").write_bytes(b"broken")
    stopped(engine)
    assert main(RESUMABLE) == 1
    assert engine.seen == ["0.png", "4.png"]


@pytest.mark.parametrize(
    "options",
    [
        ["--restart"],
        ["--device", "cpu"],
        ["--backend", "torch"],
        ["--overlays", "new"],
        ["--masks", "new"],
        ["--boxes", "boxes.csv"],
    ],
)
def test_other_options_start_again(
    folder: Path, engine: CountingEngine, options: list[str]
) -> None:
    Path("boxes.csv").write_text("file,left,top,right,bottom\nimages/1.png,1,1,9,9\n")
    stopped(engine)
    assert main([*RESUMABLE, *options]) == 0
    assert len(engine.seen) == 5


def test_results_may_be_shown_otherwise_when_a_run_resumes(
    folder: Path, engine: CountingEngine
) -> None:
    stopped(engine)
    assert main([*RESUMABLE, "--top-k", "1"]) == 0
    assert engine.seen == ["4.png"]
    rows = json.loads(Path("out.json").read_text())
    assert [list(row["probabilities"]) for row in rows] == [[row["label"]] for row in rows]


def test_another_engine_starts_again(folder: Path, engine: CountingEngine) -> None:
    stopped(engine)
    engine.manifest = replace(MANIFEST, buckets=(1,))
    assert main(RESUMABLE) == 0
    assert len(engine.seen) == 5


def test_another_batch_size_resumes(folder: Path, engine: CountingEngine) -> None:
    stopped(engine)
    assert main([*RESUMABLE[:-1], "3"]) == 0
    assert engine.seen == ["4.png"]


def test_a_kill_loses_at_most_the_batch_at_work(folder: Path, engine: CountingEngine) -> None:
    """The process ends at once in its third batch; no handler runs and nothing more is flushed."""
    child = os.fork()
    if child == 0:
        engine.before_batch = lambda number: os._exit(9) if number == 2 else None
        main(RESUMABLE)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert main(RESUMABLE) == 0
    assert engine.seen == ["4.png"]
    assert len(json.loads(Path("out.json").read_text())) == 5


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_result_is_replaced_whole(
    folder: Path, engine: CountingEngine, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    Path("out.json").write_text("the result before")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        assert main(RESUMABLE) == 4
    assert Path("out.json").read_text() == "the result before"
    resume(engine)
    assert main(RESUMABLE) == 0
    assert engine.seen == []  # all was in the journal
    assert len(json.loads(Path("out.json").read_text())) == 5


# --- exit status


@pytest.mark.parametrize(
    "arguments",
    [
        ["engine", "images", "--batch-size", "0"],
        ["engine", "images", "--batch-size", "-1"],
        ["engine", "images", "--format", "xml"],
        ["engine", "images", "--backend", "other"],
        ["engine", "images", "--device", "cuda:x"],
        ["engine", "images", "--top-k", "0"],
        ["engine", "images", "--mask-format", "tif"],
        ["engine", "images", "--unknown"],
    ],
)
def test_wrong_usage_is_2(folder: Path, engine: CountingEngine, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert not engine.batches


@pytest.mark.parametrize(
    ("arguments", "item"),
    [
        ([], "ENGINE_DIR"),
        (["engine"], "INPUT"),
        (["--server", "http://a"], "INPUT"),
        (["engine", "images", "--from", "list"], "INPUT"),
        (["--server", "http://a", "images", "--from", "list"], "INPUT"),
        (["engine", "images", "--engine", "x"], "--engine"),
        (["engine", "images", "--token-file", "x"], "--token-file"),
        *[
            (["--server", "http://a", "images", *option], option[0])
            for option in (
                ["--batch-size", "1"],
                ["--read-seconds", "1"],
                ["--trust-files"],
                ["--backend", "torch"],
                ["--device", "cpu"],
            )
        ],
    ],
)
def test_what_is_missing_or_does_nothing_is_2(
    folder: Path,
    engine: CountingEngine,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    item: str,
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {item}: ")
    assert not engine.batches


@pytest.mark.parametrize(
    "options",
    [
        ["-o", "out.txt"],
        ["-o", "out.csv", "--format", "table"],
        ["-o", "images", "--format", "csv"],
    ],
)
def test_an_output_without_a_format_is_2(
    folder: Path, engine: CountingEngine, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert main(["engine", "images", *options]) == 2
    assert capsys.readouterr().err.startswith(f"error: -o {options[1]}: ")
    assert not engine.batches
    assert {path.name for path in Path().iterdir()} == {"images"}


@pytest.mark.parametrize(
    ("arguments", "item"),
    [
        (["broken", "images"], "broken"),
        (["engine", "images", "-o", "absent/out.csv"], "absent/out.csv"),
        (["engine", "images", "--overlays", "images/0.png"], "images/0.png"),
    ],
)
def test_what_cannot_be_read_or_written_is_4_with_one_line(
    folder: Path,
    engine: CountingEngine,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    item: str,
) -> None:
    assert main(arguments) == 4
    error = capsys.readouterr().err
    assert error.startswith(f"error: {item}: ")
    assert error.count("\n") == 1
    assert not engine.batches
    assert {path.name for path in Path().iterdir()} == {"images"}


def test_an_engine_that_fails_midway_is_4_and_can_resume(
    folder: Path, engine: CountingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    def before(number: int) -> None:
        if number == 1:
            raise DeviceError("device", "was lost", "start again")

    engine.before_batch = before
    assert main(RESUMABLE) == 4
    error, note = capsys.readouterr().err.splitlines()[-2:]
    assert error == "error: device: was lost. Hint: start again"
    assert "resume" in note
    resume(engine)
    assert main(RESUMABLE) == 0
    assert engine.seen == ["2.png", "3.png", "4.png"]


def test_a_full_disk_midway_is_4_and_can_resume(
    folder: Path, engine: CountingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of files stands for the full disk: writes fail in the same way."""
    assert main(RESUMABLE) == 0
    expected = Path("out.json").read_bytes()
    Path("out.json").unlink()
    resume(engine)

    def before(number: int) -> None:
        if number == 1:
            size = Path("out.json.partial").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))

    limits, former = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    engine.before_batch = before
    try:
        assert main(RESUMABLE) == 4
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, former)
    error, note = capsys.readouterr().err.splitlines()[-2:]
    assert error.startswith("error: out.json.partial: ")
    assert os.strerror(errno.EFBIG) in error
    assert "resume" in note
    resume(engine)
    assert main(RESUMABLE) == 0
    assert engine.seen == ["2.png", "3.png", "4.png"]
    assert Path("out.json").read_bytes() == expected


def test_quiet_shows_only_failed_inputs(
    folder: Path, engine: CountingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engine", "images", "-q"]) == 0
    shown = capsys.readouterr()
    assert "4.png" in shown.out
    assert shown.err == ""
    Path("images", "2.png").write_bytes(b"broken")
    assert main(["engine", "images", "-q"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("images/2.png: ")


def test_a_long_list_of_failures_is_cut(
    tmp_path: Path, engine: CountingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(13):
        (tmp_path / f"{number}.png").touch()
    assert main(["engine", str(tmp_path), "--format", "csv"]) == 1
    error = capsys.readouterr().err
    assert "0 classified, 13 failed" in error
    assert "and 3 more" in error


# --- the real engine


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "medfocus", "classify", *map(str, arguments)]


def test_a_real_engine_answers(folder: Path, engine_directory: Path) -> None:
    picture(Path("images", "wide.png").absolute())
    arguments = command(engine_directory, "images", "-o", "out.json", "--overlays", "pictures")
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    rows = json.loads(Path("out.json").read_text())
    assert len(rows) == 6
    for row in rows:
        assert tuple(row["probabilities"]) == CLASSES
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        with Image.open(Path("pictures", evidence_name(row["source"], "png"))) as image:
            assert image.format == "PNG"


@pytest.mark.slow
def test_ctrl_c_stops_a_real_engine_and_it_resumes(folder: Path, engine_directory: Path) -> None:
    for number in range(5, 80):
        os.link("images/4.png", f"images/{number}.png")
    arguments = command(engine_directory, "images", "-o", "out.json", "--batch-size", "1")
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    journal = Path("out.json.partial")
    while process.poll() is None and not (
        journal.exists() and journal.read_bytes().count(b"\n") > 3
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=300)
    assert process.returncode == 130, shown
    assert "interrupted" in shown.splitlines()
    assert "Traceback" not in shown
    assert not Path("out.json").exists()
    kept = journal.read_bytes().count(b"\n") - 1
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{kept} of 80 files" in done.stderr
    assert len(json.loads(Path("out.json").read_text())) == 80


def test_a_missing_engine_is_4(folder: Path) -> None:
    done = subprocess.run(command("absent", "images"), capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert done.stderr.startswith(f"error: {Path('absent').absolute()}: ")
    assert done.stderr.count("\n") == 1
