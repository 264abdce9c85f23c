"""int8 graphs for CPUs: weights and activations, by NNCF, calibrated on images."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Before NNCF is imported: it reports every call to its maker's analytics service otherwise, and
# nothing leaves a hospital's machine unasked.
os.environ["NNCF_CI"] = "1"

import nncf
import openvino
from numpy.typing import NDArray


def quantise(source: Path, target: Path, feeds: Sequence[dict[str, NDArray[Any]]]) -> None:
    """Write an int8 graph.

    Args:
        source: a float32 .onnx file.
        target: the .xml file to write; its weights go into a .bin file of the same name.
        feeds: inputs by name, an image each, from which activation ranges are taken.
    """
    nncf.set_log_level("ERROR")
    quantised = nncf.quantize(
        openvino.Core().read_model(source),
        nncf.Dataset(feeds),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(feeds),
    )
    openvino.save_model(quantised, target, compress_to_fp16=False)
