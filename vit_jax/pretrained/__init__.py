"""Read checkpoints of every published format as parameters of a model, and write them."""
