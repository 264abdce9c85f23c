"""`make gpu-check`: all that needs a GPU, tested and measured in one run."""
