"""The page of a run: what is in it, and its HTML."""
