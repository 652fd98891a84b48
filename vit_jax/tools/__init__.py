"""Commands: python -m vit_jax.tools.<tool> --help."""
