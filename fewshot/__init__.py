"""Few-shot adaptation, evaluation and data sets."""
