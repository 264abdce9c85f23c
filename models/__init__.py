"""What is computed, in PyTorch, from upstream SAM2 and open_clip."""
