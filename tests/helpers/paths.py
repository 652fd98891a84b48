"""Paths of the repository and of the files that tests read."""

import pathlib

ROOT = pathlib.Path(__file__).parents[2]
FILES = ROOT / 'tests' / 'data' / 'files'  # checkpoints and outputs of other implementations
