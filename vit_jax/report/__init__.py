"""Make the report of a run: one HTML page with its metrics, figures, examples and config."""
