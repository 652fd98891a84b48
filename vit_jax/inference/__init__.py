"""Use a trained model: load a checkpoint, predict images, export a program."""
