"""Vision Transformers, their hybrids and BiT ResNets as Flax modules."""
