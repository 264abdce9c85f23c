"""Checks that the tensors of a file have the names, types and shapes that they must have."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from medfocus.engine.artifact.files import directory_error


def check_tensors(
    path: Path,
    tensors: Mapping[str, NDArray[Any]],
    shapes: Mapping[str, str],
    sizes: Mapping[str, int],
    dtypes: Mapping[str, DTypeLike] | None = None,
) -> None:
    """Check tensors against their names, each other and known sizes.

    Args:
        path: of their file.
        tensors: by name.
        shapes: by name, a letter per dimension; the same letter is the same size everywhere.
        sizes: of the letters that are known; the others take theirs from the tensors.
        dtypes: of the tensors that are not float32.

    Raises:
        EngineDirectoryError: one is missing, unknown, of another type or of a shape that does not
            fit, or holds numbers that are not finite (`engine.tensors_invalid`); the item is the
            file and the tensor.
    """
    if differing := sorted(shapes.keys() ^ tensors.keys()):
        verb = "is missing" if differing[0] in shapes else "is not a tensor that this file has"
        raise directory_error(_item(path, differing[0]), verb, code="engine.tensors_invalid")
    found = dict(sizes)
    for name, letters in shapes.items():
        tensor, dtype = tensors[name], np.dtype((dtypes or {}).get(name, np.float32))
        if tensor.dtype != dtype:
            problem = f"is {tensor.dtype}, not {dtype}"
        elif not np.isfinite(tensor).all():
            problem = "holds numbers that are not finite"
        elif tensor.ndim != len(letters) or any(
            found.setdefault(letter, size) != size
            for letter, size in zip(letters, tensor.shape, strict=True)
        ):
            known = [str(found.get(letter, letter)) for letter in letters]
            problem = f"has the shape {tensor.shape}, and ({', '.join(known)}) is expected"
        else:
            continue
        raise directory_error(_item(path, name), problem, code="engine.tensors_invalid")


def _item(path: Path, name: str) -> Path:
    return path.with_name(f"{path.name}: {name}")
