"""Train and test splits: chosen, kept free of leaks, saved and read."""
