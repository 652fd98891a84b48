"""Datasets: read, decode, preprocess and batch labeled images."""
