"""Checkpoints: read every published format as parameters of a model, and write them."""
