"""The kernels, each timed and compared with other implementations."""
