"""Pre-trains the `tiny` preset on phantoms: `python -m tools.pretrain segmenter|clip -o DIR`."""
