"""Many training runs: a sweep over learning rates, the tasks of VTAB, and few-shot evaluation."""
