"""Kernels that may replace built-in ones, once a GPU has shown that they are faster."""
