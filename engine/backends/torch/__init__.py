"""The PyTorch backend: on a GPU with buffers on the device, two CUDA streams and CUDA graphs."""
