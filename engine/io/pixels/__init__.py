"""Pixel values of any depth to the 8-bit levels that both models see."""
