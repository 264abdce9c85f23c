"""The file names of an engine directory."""

# The torch backend's weights.
SEGMENTER_WEIGHTS = "segmenter.safetensors"
CLASSIFIER_WEIGHTS = "classifier.safetensors"
HEAD_WEIGHTS = "head.safetensors"
# The graphs for ONNX Runtime, OpenVINO and TensorRT; weights lie beside them, `+ DATA_SUFFIX`.
SEGMENTER_ONNX = "segmenter.onnx"
CLASSIFIER_ONNX = "classifier.onnx"
DATA_SUFFIX = ".data"
# The same in int8 as OpenVINO writes them, each with its weights in a .bin file.
SEGMENTER_INT8 = "segmenter.int8.xml"
CLASSIFIER_INT8 = "classifier.int8.xml"


def weights_of(graph: str) -> str:
    """The file that a graph's weights lie in: ONNX's, or OpenVINO's own format's."""
    return f"{graph.removesuffix('.xml')}.bin" if graph.endswith(".xml") else graph + DATA_SUFFIX
