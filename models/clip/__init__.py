"""CLIP: architectures, image encoder with a bias per key, text encoder, adapters."""
