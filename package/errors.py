"""The errors that every part raises: each names the item, what is wrong with it, and a hint.

docs/errors.md lists the codes. A code stays what it is across versions; the wording may change.
"""

from typing import ClassVar


class MedfocusError(Exception):
    """Base of all errors raised on purpose by this package.

    Args:
        item: what the error is about: a file, an argument, a tensor.
        problem: what is wrong with it.
        hint: what the caller can do about it, in the imperative; a command as it is typed.
        code: what programs tell errors apart by, as `image.damaged`; the class's own by default.
    """

    default_code: ClassVar[str] = "error"

    def __init__(self, item: str, problem: str, hint: str, *, code: str | None = None) -> None:
        super().__init__(f"{item}: {problem}. Hint: {hint}")
        self.item = item
        self.problem = problem
        self.hint = hint
        self.code = code or self.default_code

    def __reduce__(self) -> tuple[type["MedfocusError"], tuple[str, str, str], dict[str, str]]:
        # Exception's own __reduce__ would pass the joined message as the only argument.
        return type(self), (self.item, self.problem, self.hint), {"code": self.code}


def without_traceback(error: MedfocusError) -> MedfocusError:
    """A copy of an error without the frames, and all they hold, that it was raised through."""
    return type(error)(error.item, error.problem, error.hint, code=error.code)


class InputError(MedfocusError):
    """An argument that cannot be used: an empty batch, prompts that do not match the images."""

    default_code = "input.invalid"


class FileError(InputError):
    """A file or folder that is missing, or cannot be read or written."""

    default_code = "file.unusable"


class ImageError(MedfocusError):
    """An image that cannot be read or does not hold what an image must hold."""

    default_code = "image.unreadable"


class OutputError(MedfocusError):
    """An answer of the model that is no answer: numbers that are not finite."""

    default_code = "output.not_finite"


class WeightsError(MedfocusError):
    """A weight file that is missing, unsafe, or does not fit the architecture."""

    default_code = "weights.invalid"


class EngineDirectoryError(MedfocusError):
    """An engine directory that is incomplete, was changed, or has another schema."""

    default_code = "engine.invalid"


class ParityError(MedfocusError):
    """An engine whose answers are too far from the float32 model's: not written, or not loaded."""

    default_code = "parity.missed"


class DeviceError(MedfocusError):
    """A GPU or a runtime that is not there, refuses work, or has no memory left."""

    default_code = "device.failed"
