"""A model at work: predictions, exported programs, and the arguments that choose a checkpoint."""
