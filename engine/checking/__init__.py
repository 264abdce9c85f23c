"""An engine checks itself where it runs: images with known answers, and their comparison."""
