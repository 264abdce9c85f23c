"""`medfocus` and the programs of its subcommands, in processes of their own."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import medfocus
from medfocus.command import main, parser
from medfocus.commands import COMMANDS
from medfocus.exit_codes import ExitCode

PROGRAMS = Path(sys.executable).parent
MEDFOCUS = str(PROGRAMS / "medfocus")
NAMES = ("export", "classify", "bench", "fit", "eval")
OLD_NAMES = [str(PROGRAMS / f"medfocus-{name}") for name in NAMES]
PLAIN = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}


def output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=PLAIN, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def body(text: str) -> str:
    """A help text without its usage, which is wrapped by the length of the program's name."""
    return text.partition("\n\n")[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_old_name_is_the_same_program(name: str) -> None:
    old, new = (
        output(str(PROGRAMS / f"medfocus-{name}"), "--help"),
        output(MEDFOCUS, name, "--help"),
    )
    assert old.startswith(f"usage: medfocus-{name} [-h] [--version] [-v | -q]")
    assert new.startswith(f"usage: medfocus {name} [-h] [--version] [-v | -q]")
    assert body(old) == body(new)
    assert "exit codes:" in body(new)


@pytest.mark.slow
@pytest.mark.parametrize("program", [MEDFOCUS, *OLD_NAMES], ids=lambda path: Path(path).name)
def test_every_program_prints_its_version(program: str) -> None:
    assert output(program, "--version") == f"medfocus {medfocus.__version__}\n"


def test_general_options_may_come_first() -> None:
    assert output(MEDFOCUS, "-v", "classify", "--version") == f"medfocus {medfocus.__version__}\n"


def test_python_m_medfocus_is_medfocus() -> None:
    assert output(sys.executable, "-m", "medfocus", "--help") == output(MEDFOCUS, "--help")


def test_help_lists_every_subcommand_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"    {name:<12} {command.summary}\n" in shown
    for code in ExitCode:
        assert f"\n  {code.value:<5}" in shown


@pytest.mark.parametrize("arguments", [[], ["--unknown"], ["train"], ["-v"], ["completion", "x"]])
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    for action in import_module(COMMANDS[name].module).parser()._actions:
        assert action.help, action.option_strings
        if action.default not in (None, False, [], argparse.SUPPRESS):
            default = _as_typed(action.default)
            assert default in action.help % vars(action) or f"--{default}" in action.option_strings


def _as_typed(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_presets_and_recipes_in_help_texts_are_those_there_are() -> None:
    """They are written out there, so that --help imports no torch."""
    from medfocus.fewshot.data.recipes import RECIPES
    from medfocus.models.presets import PRESETS

    for name in ("export", "fit", "eval"):
        options = {
            action.dest: action for action in import_module(COMMANDS[name].module).parser()._actions
        }
        assert _words(options["preset"].help) >= {*PRESETS}
        if name != "export":
            assert _words(options["recipe"].help) >= {*RECIPES}


def _words(text: str | None) -> set[str]:
    return set((text or "").replace(",", " ").replace(";", " ").split())


# --- what is imported

HEAVY = ("torch", "numpy", "scipy", "sklearn", "onnxruntime", "openvino", "matplotlib")


def imported(*arguments: str) -> set[str]:
    command = [sys.executable, "-X", "importtime", "-m", "medfocus", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    modules = {line.rpartition("|")[2].strip() for line in lines}
    assert "medfocus.command" in modules
    return {name.partition(".")[0] for name in modules} & {*HEAVY, "rich", "shtab"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_medfocus_itself_imports_only_the_standard_library(arguments: list[str]) -> None:
    assert imported(*arguments) == set()


@pytest.mark.parametrize("name", ["fit", "eval", "completion"])
def test_help_needs_neither_torch_nor_numpy(name: str) -> None:
    assert imported(name, "--help").isdisjoint(HEAVY)


@pytest.mark.parametrize("name", ["classify", "export"])
def test_help_needs_no_torch(name: str) -> None:
    assert imported(name, "--help") <= {"numpy", "rich"}


def test_medfocus_is_imported_lazily() -> None:
    program = (
        "import json, sys, medfocus\n"
        "light = sorted({'numpy', 'torch', 'rich', 'medfocus.engine'} & {*sys.modules})\n"
        "from medfocus import Engine, Prediction\n"
        "from medfocus.engine import Engine as E, Prediction as P\n"
        "assert (Engine, Prediction) == (E, P)\n"
        "assert {'Engine', 'Prediction', '__version__'} <= {*dir(medfocus)}\n"
        "assert not hasattr(medfocus, 'Other')\n"
        "print(json.dumps([light, 'torch' in sys.modules]))"
    )
    assert json.loads(output(sys.executable, "-c", program)) == [[], False]


WITHOUT = """
import sys

class Refuse:
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {"torch", "triton", "scipy"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
from medfocus.command import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["fit", "scans", "--shots", "1", "-o", "head.safetensors"], "fewshot"),
        (["eval", "scans", "--grid"], "fewshot"),
        (["export", "--fp16"], "export"),
        (["bench"], "export,fewshot"),
    ],
)
def test_a_missing_package_is_one_line_with_the_command_that_installs_it(
    arguments: list[str], extra: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", WITHOUT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"pip install 'medfocus[{extra}]'" in done.stderr
    assert [*tmp_path.iterdir()] == []


# --- completion


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "medfocus.bash"
    path.write_text(output(MEDFOCUS, "completion", "bash"))
    return path


def completions(script: Path, folder: Path, *words: str) -> list[str]:
    """What bash offers for the last of these words, by the function that it would call."""
    program = """
source "$0" && shift 0
read -r _ _ _ _ function _ <<< "$(complete -p medfocus)"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
"$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
    bash = shutil.which("bash")
    assert bash
    command = [bash, "--norc", "-c", program, str(script), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.slow
def test_bash_completes(script: Path, tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    (tmp_path / "engine.txt").touch()

    def offered(*words: str) -> list[str]:
        return completions(script, tmp_path, "medfocus", *words)

    assert offered("") == list(COMMANDS)
    assert offered("cl") == ["classify"]
    assert offered("classify", "--ba") == ["--batch-size", "--backend"]
    assert offered("classify", "--device", "") == ["auto", "cpu", "cuda"]
    assert offered("export", "--focus", "s") == ["soft"]
    assert offered("fit", "--adapt", "l") == ["lora"]
    assert set(offered("eval", "--")) >= {"--head", "--grid", "--verbose", "--version"}
    assert offered("completion", "z") == ["zsh"]
    assert offered("classify", "eng") == ["engines"]  # folders only
    assert set(offered("export", "--head", "eng")) == {"engines", "engine.txt"}


@pytest.mark.parametrize("shell", ["zsh", "tcsh", "fish"])
def test_other_shells_get_a_script_with_every_subcommand(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)
    assert "batch-size" in script


def test_completion_leaves_out_options_of_commands_that_are_not_installed() -> None:
    command = [sys.executable, "-c", WITHOUT, "completion", "bash"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "--batch-size" in done.stdout
    assert "--baselines" not in done.stdout
    assert "bench" in done.stdout


def test_the_table_names_commands_that_exist() -> None:
    assert {*NAMES, "serve", "completion"} == {*COMMANDS}
    for command in COMMANDS.values():
        module = import_module(command.module)
        assert callable(module.main)
        assert isinstance(module.parser(), argparse.ArgumentParser)
    assert isinstance(parser(), argparse.ArgumentParser)
