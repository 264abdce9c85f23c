"""TensorRT: building plans from ONNX, with our attention kernel as an optional plugin."""
