"""Configs: the fields and their defaults, recipes, the command line, and the configs of past runs.

A config file needs `default_config` and, for a recipe from a paper, `vit_jax.config.recipes`.
"""

from vit_jax.config.checks import check_config as check_config
from vit_jax.config.fields import default_config as default_config
