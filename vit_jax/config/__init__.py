"""Configs: every field and its default, the papers' recipes, flags, and the config of a run.

A config file needs `default_config` and, for a recipe of a paper, `vit_jax.config.recipes`.
"""

from vit_jax.config.fields import check_config, default_config
