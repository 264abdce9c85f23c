"""What all commands share: general options, logging, and errors as one line with an exit code."""

import argparse
import io
import logging
import os
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from medfocus import __version__
from medfocus.commands import COMMANDS
from medfocus.errors import FileError, MedfocusError
from medfocus.exit_codes import MEANINGS, ExitCode, exit_code_of
from medfocus.files.file_errors import reason
from medfocus.files.user_folders import keep_caches_together
from medfocus.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console

_ALWAYS = (ExitCode.OK, ExitCode.USAGE, ExitCode.INPUT_OUTPUT, ExitCode.INTERRUPTED)


def command_parser(
    name: str, description: str, examples: str, exits: Mapping[ExitCode, str] | None = None
) -> argparse.ArgumentParser:
    """A parser with the general options, and examples and exit codes below its help.

    Args:
        name: a key of `COMMANDS`.
        description: what the command does.
        examples: command lines, one per line.
        exits: exit codes that only this command has, or means in its own way.
    """
    meanings = {code: MEANINGS[code] for code in _ALWAYS} | dict(exits or {})
    codes = "\n".join(f"  {code.value:<5}{meanings[code]}" for code in sorted(meanings))
    lines = "\n".join(f"  {line}" for line in examples.strip().splitlines())
    parser = argparse.ArgumentParser(
        prog=f"medfocus-{name}",
        description=textwrap.fill(description, 80),
        epilog=f"examples:\n{lines}\n\nexit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_general_options(parser)
    return parser


def add_general_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command has."""
    parser.add_argument(
        "--version",
        action="version",
        version=f"medfocus {__version__}",
        help="print the version and exit",
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="log to stderr; -vv logs more, for debugging (default: only warnings and errors)",
    )
    amount.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="show only errors on stderr: no progress, no warnings (default: off)",
    )


def whole_number(least: int = 1, most: int | None = None) -> Callable[[str], int]:
    """A `type` of argparse: a whole number from `least` to `most`."""

    def number(text: str) -> int:
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
        value = int(text)
        if value < least or (most is not None and value > most):
            limits = f"at least {least}" if most is None else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{text} is not {limits}")
        return value

    return number


def run(
    name: str,
    parser: argparse.ArgumentParser,
    body: "Callable[[argparse.Namespace, Console], int]",
    argv: Sequence[str] | None,
    prog: str | None = None,
) -> int:
    """Parse a command line, set logging up, and run a command's body.

    Args:
        name: a key of `COMMANDS`.
        parser: from `command_parser`.
        body: takes the options and a console on stderr for progress and reports, which is silent
            with -q. It returns the exit code.
        argv: the arguments; those of this process by default.
        prog: the program's name in its help, in place of the parser's.

    Returns:
        The exit code.

    Raises:
        SystemExit: wrong usage, --help or --version.
    """
    _degrade(sys.stdout)
    parser.prog = prog or parser.prog
    options = parser.parse_args(argv)

    def action() -> int:
        keep_caches_together()
        console = stderr_console(quiet=options.quiet)
        with _logging(options.verbose, options.quiet):
            return body(options, console)

    return guarded(action, COMMANDS[name].extra)


def _degrade(stream: object) -> None:
    """Have a terminal show "?" for a character that its encoding lacks, not end the command."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")


def guarded(action: Callable[[], int], extra: str = "") -> int:
    """Run `action`; print an error that ends it as one line on stderr, then the error's notes.

    Args:
        action: returns the exit code.
        extra: what to install if a package is missing.

    Returns:
        The exit code.
    """
    try:
        return action()
    except BrokenPipeError as error:
        # Whoever read the output has closed it, as `head` does. Python would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_code_of(error)
    except KeyboardInterrupt as error:
        print_error("interrupted", *notes(error))
        return exit_code_of(error)
    except ModuleNotFoundError as error:
        package = (error.name or "a package").partition(".")[0]
        if package == "medfocus":
            raise
        wanted = f"medfocus[{extra}]" if extra else "medfocus"
        print_error(f"error: {package}: is not installed. Hint: pip install '{wanted}'")
        return exit_code_of(error)
    except MedfocusError as error:
        print_error(f"error: {error}", *notes(error))
        return exit_code_of(error)
    except OSError as error:
        problem = f"cannot be read or written ({reason(error)})"
        hint = "check its path, its permissions and the free disk space"
        named = FileError(str(error.filename or "input or output"), problem, hint)
        print_error(f"error: {named}", *notes(error))
        return exit_code_of(error)


@contextmanager
def noting(note: str, *errors: type[BaseException]) -> Iterator[None]:
    """Have `note` printed after an error of these types that ends the block."""
    try:
        yield
    except errors as error:
        error.add_note(note)
        raise


def notes(error: BaseException) -> list[str]:
    """What `noting` added to an error."""
    return getattr(error, "__notes__", [])


def print_error(*lines: str) -> None:
    """Print lines on stderr, without control characters."""
    for line in lines:
        print(printable(line), file=sys.stderr)


def stderr_console(quiet: bool = False) -> "Console":
    """A console on stderr that prints text as it is; silent if `quiet`."""
    from rich.console import Console

    return Console(
        stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=quiet
    )


class _StderrHandler(logging.Handler):
    """Prints log records through sys.stderr, which a progress bar redirects while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        print_error(*self.format(record).splitlines())


@contextmanager
def _logging(verbose: int, quiet: bool) -> Iterator[None]:
    """Log this package's records to stderr while the block runs."""
    level = (
        logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    )
    details = "%(asctime)s %(name)s " if verbose > 1 else ""
    logger, handler = logging.getLogger("medfocus"), _StderrHandler()
    handler.setFormatter(logging.Formatter(f"{details}%(levelname)s: %(message)s"))
    former = logger.level
    logger.setLevel(level)
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            if quiet:
                warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(former)
