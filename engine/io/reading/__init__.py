"""Files read by processes of their own, so that a decoder that crashes costs one file."""
