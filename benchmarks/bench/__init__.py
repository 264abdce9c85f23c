"""`medfocus-bench`: its command, what it measures and what it reports."""
