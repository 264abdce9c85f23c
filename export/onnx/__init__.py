"""ONNX: export of the two graphs, and their conversion to half precision."""
