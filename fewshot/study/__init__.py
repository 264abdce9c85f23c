"""Studies: a grid of settings, its runs and their report."""
