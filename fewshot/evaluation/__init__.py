"""Metrics, confidence intervals, temperature scaling and explanations."""
