"""Estimate what a training run takes: memory, time and operations, without running it."""
