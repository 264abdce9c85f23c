"""Trains the `tiny` preset on phantoms: `python -m medfocus.fewshot.pretrain segmenter|clip`."""
