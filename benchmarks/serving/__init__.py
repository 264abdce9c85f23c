"""The HTTP service: its load compared with the engine's own, and an hour of it."""
