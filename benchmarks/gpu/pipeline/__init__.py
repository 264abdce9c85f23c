"""The pipeline on a GPU: measured, with its goals, and variants of it."""
