"""A training run: loop, step, optimizer, checkpoints, inputs, metrics and the workdir it writes."""
