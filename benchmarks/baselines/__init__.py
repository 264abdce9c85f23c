"""Other implementations of the models and the kernels, to compare with."""
