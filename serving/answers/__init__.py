"""Predictions as JSON."""
