"""Reads a config file and its --config.FIELD=VALUE flags; what is wrong becomes one sentence."""

from collections.abc import Sequence
import re
import sys

from absl import flags
from ml_collections import ConfigDict, config_flags

from vit_jax.errors import InputError


def define_config(flag_values: flags.FlagValues) -> None:
  """Adds --config."""
  config_flags.DEFINE_config_file(
    'config',
    None,
    'A file of configs/, with an argument after a colon where it takes one; '
    'any field is set by --config.FIELD=VALUE.',
    lock_config=True,
    flag_values=flag_values,
  )


def parse_config(flag_values: flags.FlagValues, argv: Sequence[str]) -> ConfigDict:
  """Reads the flags of a command line; returns the config.

  Raises:
    InputError: an unknown flag or field, a value of another type, no config or a broken one.
  """
  before, sys.argv = sys.argv, list(argv)  # where ml_collections looks for the fields
  try:
    rest = flag_values(sys.argv)
    config = flag_values['config'].value
    if config is not None:
      list(config)  # a config that failed to load says so when first used
  except Exception as e:  # a config file is a program: it may raise anything
    raise InputError(_sentence(e)) from e
  finally:
    sys.argv = before
  if len(rest) > 1:
    raise InputError(f'unknown argument {rest[1]!r}; flags look like --config.batch_size=256')
  if config is None:
    raise InputError('which run? give --config=FILE, e.g. --config=configs/vit_b16.py')
  return config


def _sentence(e):
  """What a failure to read the flags or the config file comes down to."""
  lines = str(e).strip().splitlines() or [type(e).__name__]
  missing = re.search(r"No such file or directory: '([^']*)'", lines[-1])
  if missing:
    return f'there is no config file {missing[1]}'
  if isinstance(e, (AttributeError, KeyError)):
    names = re.findall(r'\w+', re.sub(r'\\n|Did you mean|instead of', ' ', str(e)))
    return f'unknown config field {names[0]!r}' + (
      f'; did you mean {names[1]!r}?' if len(names) > 1 else ''
    )
  return lines[-1].removeprefix('vit_jax.errors.InputError: ')
