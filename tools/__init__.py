"""Programs for a checkout, not installed: pre-training the `tiny` weights, rendering docs."""
