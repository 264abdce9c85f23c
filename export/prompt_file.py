"""The prompts of an engine from a file of the user's."""

from pathlib import Path

from medfocus.engine.artifact.strict_json import parse_json, read_dataclass
from medfocus.errors import InputError
from medfocus.files.file_errors import unreadable
from medfocus.settings import Prompts

_FORM = 'write {"points": [[[0.5, 0.5]]], "labels": [[1]]}, as in an engine\'s manifest.json'


def read_prompts(path: Path) -> Prompts:
    """Read prompts from JSON: an object with the `points` and `labels` of `Prompts`.

    Raises:
        FileError: the file is missing (`file.missing`) or cannot be read (`file.unreadable`).
        InputError: it is not as it must be; the item is the file and the key
            (`input.prompt_malformed`).
    """
    code = "input.prompt_malformed"
    try:
        content = parse_json(path.read_bytes())
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError):
        raise InputError(str(path), "is not JSON in UTF-8", _FORM, code=code) from None
    try:
        return read_dataclass(Prompts, content)
    except InputError as error:
        item = f"{path}: {error.item}" if error.item else str(path)
        raise InputError(item, error.problem, _FORM, code=code) from None
