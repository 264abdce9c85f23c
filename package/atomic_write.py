"""Files that appear whole or not at all."""

import os
from pathlib import Path

from medfocus.errors import InputError


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file beside itself, then rename it; its folder is made where it is missing.

    Args:
        path: of the file.
        content: text becomes UTF-8.

    Raises:
        InputError: it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(data)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            str(path), f"cannot be written ({error.strerror})", "choose another place"
        ) from error
