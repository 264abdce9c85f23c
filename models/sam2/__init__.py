"""SAM2's image path: architectures, image encoder, mask decoder, selection of the focus mask."""
