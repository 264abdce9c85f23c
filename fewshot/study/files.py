"""Files that appear whole or not at all."""

import os
from pathlib import Path

from medfocus.errors import InputError


def write_whole(path: Path, text: str) -> None:
    """Write a text file beside itself, then rename it.

    Raises:
        InputError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise InputError(
            str(path), f"cannot be written ({error.strerror})", "choose another folder"
        ) from error
