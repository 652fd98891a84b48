"""Read --config=FILE and --config.FIELD=VALUE, and parse values for other commands' flags."""

import ast
from collections.abc import Sequence
import logging
import os
import re
import sys
import traceback
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from vit_jax.config import recipes
from vit_jax.config.checks import unknown_field
from vit_jax.config.length import settle_length
from vit_jax.config.old_spellings import normalize
from vit_jax.errors import InputError, causes, first_line, last_line, machine_failure
from vit_jax.files import user_path

log = logging.getLogger('vit_jax')


def define_config(flag_values: flags.FlagValues) -> None:
  """Define --config."""
  config_flags.DEFINE_config_file(
    'config',
    None,
    'Config file, such as configs/vit_b16.py. Some take an argument after a colon. '
    'Set any field with --config.FIELD=VALUE.',
    lock_config=True,
    flag_values=flag_values,
  )


def parse_config(flag_values: flags.FlagValues, argv: Sequence[str]) -> ConfigDict:
  """Parse a command line and return its config. Old spellings of "not set" become None.

  A length on the command line replaces that of the config file (see `settle_length`).

  Raises:
    InputError: a flag or field is unknown, a value has the wrong type, or no config is given or it
      fails to load.
  """
  # Config files written for earlier versions import `vit_jax.recipes`.
  sys.modules['vit_jax.recipes'] = recipes
  before = sys.argv
  sys.argv = _join_config(argv)  # ml_collections looks for the fields there
  try:
    rest = flag_values(sys.argv)
    config = flag_values['config'].value
    if config is not None:
      list(config)  # a config that failed to load raises its error when it is first used
  except Exception as e:  # a config file is a program, which may raise anything
    if machine_failure(e):
      raise
    raise _program_error(e, sys.argv) or _input_error(e) from e
  finally:
    sys.argv = before
  if len(rest) > 1:
    raise InputError(f'Unknown argument {rest[1]!r}. Flags look like --config.batch_size=256.')
  if config is None:
    raise InputError('No config. Give one with --config=FILE, such as --config=configs/vit_b16.py.')
  normalize(config)
  settle_length(config, given_fields(flag_values))
  return config


def _join_config(argv: Sequence[str]) -> list[str]:
  """Write `--config FILE` and `-config=FILE` as `--config=FILE`, with ~ replaced in FILE."""
  words: list[str] = []
  for word in argv:
    if words and words[-1] in ('-config', '--config'):
      word = f'{words.pop()}={word}'
    flag, equals, path = word.partition('=')
    if equals and flag in ('-config', '--config'):
      word = f'--config={user_path(path) if path[:1] == "~" else path}'
    words.append(word)
  return words


def config_file(flag_values: flags.FlagValues) -> str:
  """Return the value of --config on a parsed command line, such as 'configs/vit_b16.py:jft'."""
  flag: Any = flag_values['config']
  return flag.config_filename


def given_fields(flag_values: flags.FlagValues) -> set[str]:
  """Return the config fields that the parsed command line sets."""
  return set(config_flags.get_override_values(flag_values['config']))


def learning_rate_hint(
  flag_values: flags.FlagValues, rates: Sequence[float] | None = None
) -> str | None:
  """Return a hint if the command line changes the batch size but not the learning rate.

  Args:
    flag_values: the parsed command line.
    rates: learning rates of a recipe, of which a sweep chooses one. None: config.lr.
  """
  given = given_fields(flag_values)
  if 'batch_size' not in given or 'lr' in given:
    return None
  flag: Any = flag_values['config.batch_size']
  config: Any = flag_values['config'].value
  recipe, batch_size = flag.default, flag.value
  if recipe == batch_size or not recipe:
    return None
  rates, flag_name = (rates, '--lrs') if rates else ((config.lr,), '--config.lr')
  scaled = lambda factor: ','.join(f'{rate * factor:.2g}' for rate in rates)
  ratio = batch_size / recipe
  return (
    f'Hint: {flag_name}={scaled(1)} was chosen for batches of {recipe:,} images. For '
    f'{batch_size:,}, it would be {scaled(ratio)} if scaled linearly, and {scaled(ratio**0.5)} by '
    'the square root.'
  )


def field_value(text: str) -> tuple[str, Any]:
  """Parse a FIELD=VALUE argument: 'registers=4' -> ('registers', 4), 'head=gap' -> ('head', 'gap').

  Raises:
    ValueError: the text has no equals sign. (argparse reports a ValueError as a bad argument.)
  """
  field, equals, value = text.partition('=')
  if not equals:
    raise ValueError(f'{text!r} is not FIELD=VALUE.')
  try:
    return field, ast.literal_eval(value)
  except (SyntaxError, ValueError):
    return field, value


field_value.__name__ = 'FIELD=VALUE'  # argparse shows this name in its messages


def _program_error(error: Exception, argv: Sequence[str]) -> InputError | None:
  """Return the InputError for a config file that fails as a program, or None if it does not.

  Unknown fields and InputErrors of the recipes are left to `_input_error`.
  """
  paths = [re.split('[=:]', word, maxsplit=2)[1] for word in argv if word.startswith('--config=')]
  for cause in causes(error):
    if isinstance(cause, InputError) or 'since the config is locked' in str(cause):
      return None
    if isinstance(cause, AttributeError) and "attribute 'get_config'" in str(cause):
      return InputError(
        f'{paths[-1]} has no function get_config. See configs/vit_b16.py for an example.'
      )
    frames = [(f.f_code.co_filename, line) for f, line in traceback.walk_tb(cause.__traceback__)]
    if isinstance(cause, SyntaxError):
      frames.append((cause.filename or '', cause.lineno or 0))
    for path, line in reversed(frames):
      if os.path.exists(path) and any(
        os.path.exists(p) and os.path.samefile(path, p) for p in paths
      ):
        return InputError(
          f'{path} failed in line {line}: {type(cause).__name__}: {first_line(cause)}. Correct it.'
        )
  return None


def _input_error(e: Exception) -> InputError:
  """Return the InputError that explains why the flags or the config file cannot be read."""
  line = last_line(e)
  missing = re.search(r"No such file or directory: '([^']*)'", line)
  if missing:
    return InputError(f'Config file {missing[1]} does not exist. Check the path.')
  if isinstance(e, AttributeError | KeyError) and 'object has no attribute' not in str(e):
    field = re.search(r'Key "(\w+)"', str(e)) or re.search(r'(\w+)', str(e))
    return unknown_field(field[1]) if field else InputError(line)
  return InputError(line.removeprefix('vit_jax.errors.InputError: '))
