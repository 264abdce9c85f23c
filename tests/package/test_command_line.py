"""What all commands share: options, logging, errors as one line."""

import argparse
import errno
import logging
import os
import subprocess
import sys
import warnings

import pytest
from rich.console import Console

from medfocus.command_line import command_parser, guarded, noting, run, whole_number
from medfocus.errors import EngineDirectoryError, FileError, InputError, ParityError


def body_that_logs(_: argparse.Namespace, console: Console) -> int:
    logger = logging.getLogger("medfocus.engine.some_module")
    for level in ("debug", "info", "warning", "error"):
        getattr(logger, level)("%s message", level)
    warnings.warn("python warning", stacklevel=1)
    console.print("[report]")
    print("the result")
    return 0


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], {"warning", "error", "python warning", "[report]"}),
        (["-v"], {"info", "warning", "error", "python warning", "[report]"}),
        (["-v", "-v"], {"debug", "info", "warning", "error", "python warning", "[report]"}),
        (["-vv"], {"debug", "info", "warning", "error", "python warning", "[report]"}),
        (["-q"], {"error"}),
    ],
)
def test_verbosity(options: list[str], shown: set[str]) -> None:
    program = (
        "import sys; from tests.package.test_command_line import body_that_logs\n"
        "from medfocus.command_line import command_parser, run\n"
        "sys.exit(run('classify', command_parser('classify', '', ''), body_that_logs, None))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", program, *options],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "the result\n"
    levels = ("debug", "info", "warning", "error")
    lines = {f"{level.upper()}: {level} message": level for level in levels}
    texts = {**lines, "python warning": "python warning", "[report]": "[report]"}
    assert {name for text, name in texts.items() if text in done.stderr} == shown


def test_logging_ends_with_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("medfocus")
    before = logger.level, list(logger.handlers)
    for _ in range(2):
        run("classify", command_parser("classify", "", ""), body_that_logs, ["-vv"])
        assert capsys.readouterr().err.count("info message") == 1
    assert (logger.level, list(logger.handlers)) == before


def test_verbose_and_quiet_exclude_each_other() -> None:
    with pytest.raises(SystemExit) as caught:
        run("classify", command_parser("classify", "", ""), body_that_logs, ["-v", "-q"])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (InputError("an\x1b[2Jitem", "bad", "fix it"), 2, "error: an�[2Jitem: bad. Hint: fix it"),
        (ParityError("e", "bad", "fix it"), 3, "error: e: bad. Hint: fix it"),
        (FileError("two\nlines", "bad", "fix it"), 4, "error: two�lines: bad. Hint: fix it"),
        (EngineDirectoryError("e", "bad", "fix it"), 4, "error: e: bad. Hint: fix it"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            ModuleNotFoundError("no", name="torch.nn"),
            2,
            "error: torch: is not installed. Hint: pip install 'medfocus[export]'",
        ),
    ],
)
def test_an_error_is_one_line(
    error: BaseException, code: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    assert guarded(fail, "export") == code
    assert capsys.readouterr().err == f"{shown}\n"


@pytest.mark.parametrize(("item", "name"), [("out.csv", "out.csv"), (None, "input or output")])
def test_an_error_of_the_system_is_one_line_with_its_reason(
    item: str | None, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), item)

    assert guarded(fail) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {name}: ")
    assert os.strerror(errno.ENOSPC) in line
    assert ". Hint: " in line


def test_notes_follow_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        with noting("what was kept", InputError):
            raise InputError("item", "problem", "hint")

    assert guarded(fail) == 2
    assert capsys.readouterr().err.splitlines()[1:] == ["what was kept"]


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), ModuleNotFoundError("no", name="medfocus.gone")]
)
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    def fail() -> int:
        raise error

    with pytest.raises(type(error)):
        guarded(fail)


def test_a_closed_pipe_is_quiet() -> None:
    """As in `medfocus classify … | head -1`."""
    program = (
        "import sys; from medfocus.command_line import guarded\n"
        "def body():\n"
        "    for _ in range(100_000): print('line')\n"
        "    return 0\n"
        "sys.exit(guarded(body))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stderr
    assert process.stdout.readline() == "line\n"
    process.stdout.close()
    with process.stderr as stderr:
        assert stderr.read() == ""
    assert process.wait(300) == 4


@pytest.mark.parametrize(
    ("limits", "text", "value"),
    [
        ((1,), "1", 1),
        ((0, 9), "0", 0),
        ((0, 9), "9", 9),
        ((-5,), "-5", -5),
        ((1,), "0", None),
        ((0, 9), "10", None),
        ((0,), "-1", None),
        ((1,), "1.5", None),
        ((1,), "", None),
        ((1,), " 1", None),
        ((1,), "1_0", None),
        ((1,), "٣", None),
        ((1,), "many", None),
    ],
)
def test_whole_numbers(limits: tuple[int, ...], text: str, value: int | None) -> None:
    if value is None:
        with pytest.raises(argparse.ArgumentTypeError):
            whole_number(*limits)(text)
    else:
        assert whole_number(*limits)(text) == value
