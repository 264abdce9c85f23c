"""The models in PyTorch, built on upstream SAM2 and open_clip."""
