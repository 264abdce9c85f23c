"""TensorRT's own Python API without its libraries, and a stand-in for the library."""
