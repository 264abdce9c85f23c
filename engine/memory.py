"""What "out of memory" looks like in each runtime."""

# CUDA and PyTorch; ONNX Runtime; the C++ library, through OpenVINO; PyTorch's CPU allocator.
_SAYINGS = ("out of memory", "failed to allocate", "bad_alloc", "bad allocation", "allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice; the runtimes share no class for it."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(saying in said for saying in _SAYINGS)
