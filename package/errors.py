"""The errors that every part raises: each names the item, what is wrong with it, and the hint."""


class MedfocusError(Exception):
    """Base of all errors raised on purpose by this package.

    Args:
        item: what the error is about: a file, an argument, a tensor.
        problem: what is wrong with it.
        hint: what the caller can do about it.
    """

    def __init__(self, item: str, problem: str, hint: str) -> None:
        super().__init__(f"{item}: {problem}. {hint[:1].upper()}{hint[1:]}.")
        self.item = item
        self.problem = problem
        self.hint = hint

    def __reduce__(self) -> tuple[type["MedfocusError"], tuple[str, str, str]]:
        # Exception's own __reduce__ would pass the joined message as the only argument.
        return type(self), (self.item, self.problem, self.hint)


def without_traceback(error: MedfocusError) -> MedfocusError:
    """The same error anew: without the frames, and all they hold, that it was raised through."""
    return type(error)(error.item, error.problem, error.hint)


class InputError(MedfocusError):
    """An argument that cannot be used: an empty batch, prompts that do not match the images."""


class ImageError(MedfocusError):
    """An image that cannot be read or does not hold what an image must hold."""


class OutputError(MedfocusError):
    """An answer of the model that is no answer: numbers that are not finite."""


class WeightsError(MedfocusError):
    """A weight file that is missing, unsafe, or does not fit the architecture."""


class EngineDirectoryError(MedfocusError):
    """An engine directory that is incomplete, was changed, or has another schema."""


class ParityError(MedfocusError):
    """A built engine whose answers are too far from the float32 model's; it was not written."""


class DeviceError(MedfocusError):
    """A GPU or a runtime that is not there, refuses work, or has no memory left."""
