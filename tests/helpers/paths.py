"""Where tests find the repository and their files."""

import pathlib

ROOT = pathlib.Path(__file__).parents[2]
FILES = ROOT / 'tests' / 'data' / 'files'  # checkpoints and outputs of other implementations
