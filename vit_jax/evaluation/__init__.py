"""How good a model is: losses, accuracy and its relatives, few-shot, per-class reports."""
