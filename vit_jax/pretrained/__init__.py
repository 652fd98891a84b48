"""Checkpoints as parameters of a model, and parameters as checkpoints for other programs."""
