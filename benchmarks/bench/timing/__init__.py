"""Interleaved timing on the CPU and the GPU, cold starts and rooflines."""
