"""What `head.safetensors` must hold, whatever runtime uses it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfocus.engine.artifact.files import directory_error

# The tensors' shapes: C classes, E numbers of an embedding, L layers, M stored images.
_SHAPES = {"class_embeddings": "CE", "logit_scale": "", "strength": "L"}
_CACHE_SHAPES = {"cache_keys": "ME", "cache_values": "MC", "cache_sharpness": ""}


def check_head(path: Path, tensors: Mapping[str, NDArray[Any]], classes: int) -> None:
    """Check the tensors of a head (`models.head`) against each other and the manifest.

    Args:
        path: of their file.
        tensors: by name.
        classes: how many the manifest names.

    Raises:
        EngineDirectoryError: one is missing, unknown, not finite float32, or of a shape that does
            not fit (`engine.tensors_invalid`); the item is the file and the tensor.
    """
    shapes = _SHAPES | (_CACHE_SHAPES if _CACHE_SHAPES.keys() & tensors.keys() else {})
    if differing := sorted(shapes.keys() ^ tensors.keys()):
        verb = "is missing" if differing[0] in shapes else "is not a tensor of a head"
        raise directory_error(_item(path, differing[0]), verb, code="engine.tensors_invalid")
    sizes = {"C": classes}
    for name, letters in shapes.items():
        tensor = tensors[name]
        if tensor.dtype != np.float32:
            problem = f"is {tensor.dtype}, not float32"
        elif not np.isfinite(tensor).all():
            problem = "holds numbers that are not finite"
        elif tensor.ndim != len(letters) or any(
            sizes.setdefault(letter, size) != size
            for letter, size in zip(letters, tensor.shape, strict=True)
        ):
            known = [str(sizes.get(letter, letter)) for letter in letters]
            problem = f"has the shape {tensor.shape}, and ({', '.join(known)}) is expected"
        else:
            continue
        raise directory_error(_item(path, name), problem, code="engine.tensors_invalid")


def _item(path: Path, name: str) -> Path:
    return path.with_name(f"{path.name}: {name}")
