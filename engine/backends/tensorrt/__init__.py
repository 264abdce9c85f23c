"""The TensorRT backend: serialised plans, run without PyTorch."""
