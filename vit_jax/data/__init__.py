"""Read, decode, preprocess and batch labeled images."""
