"""`medfocus`: one command for all that this package does. `medfocus COMMAND --help` says more.

Exit codes, of every command: 0 success; 1 some inputs failed; 2 wrong usage; 3 an engine
that is refused, too far from the float32 model; 4 input or output error; 130 interrupted.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from medfocus.command_line import add_general_options, guarded
from medfocus.commands import COMMANDS
from medfocus.exit_codes import MEANINGS


def main(argv: Sequence[str] | None = None) -> int:
    """Run `medfocus`.

    Returns:
        The exit code.

    Raises:
        SystemExit: wrong usage, --help or --version.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    # General options may precede the subcommand, which takes all that follows it.
    leading = next((i for i, text in enumerate(arguments) if text[:1] != "-"), len(arguments))
    name = parser().parse_args(arguments[: leading + 1]).command
    return run_command(
        name, [*arguments[:leading], *arguments[leading + 1 :]], prog=f"medfocus {name}"
    )


def run_command(name: str, argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Import a command's module and run it.

    Args:
        name: a key of `COMMANDS`.
        argv: its arguments; those of this process by default.
        prog: the program's name in its help; `medfocus-<name>` by default.
    """
    command = COMMANDS[name]

    def action() -> int:
        code: int = import_module(command.module).main(argv, prog or f"medfocus-{name}")
        return code

    return guarded(action, command.extra)


def parser(
    subparsers: Mapping[str, argparse.ArgumentParser] | None = None,
) -> argparse.ArgumentParser:
    """The options of `medfocus` itself, and its subcommands.

    Args:
        subparsers: the subcommands' own options, by name, for those that are to have them.
    """
    codes = "\n".join(f"  {code.value:<5}{meaning}" for code, meaning in MEANINGS.items())
    parser = argparse.ArgumentParser(
        prog="medfocus",
        description="Classify medical images with CLIP, which looks where SAM2 found a region.",
        epilog="examples:\n"
        "  medfocus export --fp16 -o engines/tiny    build an engine from the shipped weights\n"
        "  medfocus classify engines/tiny scans/     classify the images of a folder\n"
        "  medfocus fit --help                       all options of one command\n"
        "\n"
        f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_general_options(parser)
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )
    for name, command in COMMANDS.items():
        parents = [subparsers[name]] if subparsers and name in subparsers else []
        commands.add_parser(name, help=command.summary, parents=parents, add_help=False)
    return parser


# The programs of their own, named before `medfocus` was one command.


def medfocus_export() -> int:
    """Run `medfocus-export`."""
    return run_command("export")


def medfocus_classify() -> int:
    """Run `medfocus-classify`."""
    return run_command("classify")


def medfocus_bench() -> int:
    """Run `medfocus-bench`."""
    return run_command("bench")


def medfocus_fit() -> int:
    """Run `medfocus-fit`."""
    return run_command("fit")


def medfocus_eval() -> int:
    """Run `medfocus-eval`."""
    return run_command("eval")
