"""What operations see: metrics, the access log."""
