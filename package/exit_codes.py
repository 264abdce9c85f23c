"""Exit codes: the same for all commands."""

from enum import IntEnum

from medfocus.errors import FileError, InputError, ParityError


class ExitCode(IntEnum):
    """What a command's exit status says."""

    OK = 0
    SOME_FAILED = 1
    USAGE = 2
    REFUSED = 3
    INPUT_OUTPUT = 4
    INTERRUPTED = 130


MEANINGS = {
    ExitCode.OK: "success",
    ExitCode.SOME_FAILED: "some inputs failed",
    ExitCode.USAGE: "wrong usage: an option or argument that cannot be used, or a missing package",
    ExitCode.REFUSED: "refused: an engine whose answers are too far from the float32 model's",
    ExitCode.INPUT_OUTPUT: "input or output error: a file, image, weights, an engine or a device",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C)",
}


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code of a command that `error` ends.

    Args:
        error: a MedfocusError, OSError, ModuleNotFoundError or KeyboardInterrupt.
    """
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    if isinstance(error, ParityError):
        return ExitCode.REFUSED
    if isinstance(error, FileError):
        return ExitCode.INPUT_OUTPUT
    if isinstance(error, (InputError, ModuleNotFoundError)):
        return ExitCode.USAGE
    return ExitCode.INPUT_OUTPUT
