"""What `head.safetensors` must hold, whatever runtime uses it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medfocus.engine.artifact.tensors import check_tensors

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
        EngineDirectoryError: see `check_tensors`.
    """
    shapes = _SHAPES | (_CACHE_SHAPES if _CACHE_SHAPES.keys() & tensors.keys() else {})
    check_tensors(path, tensors, shapes, {"C": classes})
