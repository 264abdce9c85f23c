"""Several images of one series or volume as one study with one answer."""
