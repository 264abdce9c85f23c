"""The file names of an engine directory."""

# The torch backend's weights.
SEGMENTER_WEIGHTS = "segmenter.safetensors"
CLASSIFIER_WEIGHTS = "classifier.safetensors"
HEAD_WEIGHTS = "head.safetensors"
# Phantoms with the answers that a backend must give (`engine/checking/`).
CHECK_IMAGES = "check.safetensors"
# The graphs for ONNX Runtime, OpenVINO and TensorRT, each with its weights in a second file.
SEGMENTER_ONNX = "segmenter.onnx"
CLASSIFIER_ONNX = "classifier.onnx"
DATA_SUFFIX = ".data"
# The same graphs in int8, in OpenVINO's format.
SEGMENTER_INT8 = "segmenter.int8.xml"
CLASSIFIER_INT8 = "classifier.int8.xml"


def weights_of(graph: str) -> str:
    """The name of the file with a graph's weights, for ONNX and for OpenVINO's format."""
    return f"{graph.removesuffix('.xml')}.bin" if graph.endswith(".xml") else graph + DATA_SUFFIX
