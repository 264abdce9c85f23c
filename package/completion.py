"""`medfocus completion`: a script that completes `medfocus`, its options and files in a shell."""

import argparse
from collections.abc import Sequence
from importlib import import_module

from medfocus.command import parser as medfocus_parser
from medfocus.command_line import command_parser, run
from medfocus.commands import COMMANDS
from medfocus.exit_codes import ExitCode

SHELLS = ("bash", "zsh", "tcsh", "fish")
_FOLDERS = ("DIR", "ENGINE_DIR")
_FILES = ("FILE", "OLD.json", "INPUT", "CSV", "DATASET")


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command."""
    return run("completion", parser(), _print_script, argv, prog)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser(
        "completion",
        "Print a script for a shell that completes subcommands, options and files of `medfocus`.",
        'eval "$(medfocus completion bash)"                      now; or in ~/.bashrc\n'
        "medfocus completion zsh > ~/.zfunc/_medfocus            with ~/.zfunc in fpath",
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    return parser


def _print_script(options: argparse.Namespace, _: object) -> int:
    import shtab

    print(shtab.complete(medfocus_parser(_subparsers()), options.shell))
    return ExitCode.OK


def _subparsers() -> dict[str, argparse.ArgumentParser]:
    """The options of every command whose packages are installed; files and folders are marked."""
    import shtab

    kinds = dict.fromkeys(_FOLDERS, shtab.DIRECTORY) | dict.fromkeys(_FILES, shtab.FILE)
    found = {}
    for name, command in COMMANDS.items():
        try:
            found[name] = import_module(command.module).parser()
        except ModuleNotFoundError:
            continue
        for action in found[name]._actions:
            if action.metavar in kinds:
                action.complete = kinds[action.metavar]  # where shtab looks for it
            elif action.metavar == "DEVICE":  # names of more GPUs are accepted as well
                action.choices = [*({"auto"} & {action.default}), "cpu", "cuda"]
    return found
