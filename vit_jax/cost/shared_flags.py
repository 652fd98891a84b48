"""Flags that tools.aot and tools.cost share."""

from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict

from vit_jax.config.flags import define_config, parse_config
from vit_jax.errors import InputError


def define_flags(mfu_help: str) -> flags.FlagValues:
  """Return the flags that both tools have."""
  values = flags.FlagValues()
  define_config(values)
  flags.DEFINE_float('mfu', 0.4, mfu_help, flag_values=values)
  flags.DEFINE_integer(
    'num_images',
    None,
    'Number of training images. Needed if the dataset is neither known nor prepared here.',
    0,
    flag_values=values,
  )
  flags.DEFINE_bool('json', False, 'Print JSON instead of text.', flag_values=values)
  return values


def parse_run(values: flags.FlagValues, argv: Sequence[str]) -> ConfigDict:
  """Parse a command line and return its config.

  Args:
    values: from `define_flags`.
    argv: starts with the name of the program.

  Raises:
    InputError: an argument is wrong, or there is no --config.
  """
  config = parse_config(values, argv)
  _check_mfu(values.mfu)
  return config


def parse_optional_run(values: flags.FlagValues, argv: Sequence[str]) -> ConfigDict | None:
  """Parse a command line like `parse_run`, and return None if it has no --config."""
  if any(x.lstrip('-').startswith('config') for x in argv[1:]):
    return parse_run(values, argv)
  try:
    rest = values(list(argv))
  except flags.Error as e:
    raise InputError(str(e)) from e
  if len(rest) > 1:
    raise InputError(f'Unknown argument {rest[1]!r}. Flags look like --mfu=.4.')
  _check_mfu(values.mfu)
  return None


def _check_mfu(mfu: float) -> None:
  if not 0 < mfu <= 1:
    raise InputError(
      f'--mfu={mfu:g} is out of range. Give a fraction of the peak rate, more than 0 and at most '
      '1, such as .4.'
    )
