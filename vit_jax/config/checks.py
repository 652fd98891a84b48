"""Check the values of a config that need no model, data or devices to be checked.

models/create.py checks the fields of a model, models/masked_patches.py those of masked patches,
data/augment.py those of RandAugment, and parallel/mesh.py the mesh.
"""

from collections.abc import Mapping
import difflib
import math
from typing import Any

from ml_collections import ConfigDict

from vit_jax.config.dtype import AUTO
from vit_jax.config.fields import AUGREG, MODEL_FIELDS, default_config
from vit_jax.config.old_spellings import normalize
from vit_jax.data.resample import FILTERS
from vit_jax.errors import InputError, last_line, unknown

_CHOICES = {
  'pretext': (None, 'masked_patches'),
  'loss': ('softmax', 'sigmoid'),
  'schedule': ('cosine', 'linear', 'steps'),
  'decay': ('kernels', 'all'),
  'parallel': ('pmap', 'mesh'),
  'preset': ('inception', 'bit'),
  'eval_filter': (None, *FILTERS),
  'fewshot_preset': ('squash', 'inception'),
  'optimizer': ('adam', 'sgd'),
  'dtype': ('float32', 'bfloat16', AUTO),
  'moment_dtype': ('float32', 'bfloat16'),
  'flip': ('yes', 'no', 'auto'),
  'augment': tuple(AUGREG),
}
_AT_LEAST_1 = ('batch_size', 'accumulate', 'image_size', 'log_every', 'keep')
_NOT_NEGATIVE = (
  'total_steps',
  'num_epochs',
  'warmup_steps',
  'eval_every',
  'fewshot_every',
  'figures_every',
  'save_every',
  'keep_every',
  'lr',
  'weight_decay',
  'clip_norm',
  'mixup',
  'max_bad_records',
  'seed',
  'num_threads',
  'num_workers',
  'hang_seconds',
  'num_classes',
  'num_layers',
  'hidden_dim',
  'mlp_dim',
  'num_heads',
  'representation_size',
  'resize_size',
  'trained_blocks',
)
_FRACTIONS = ('label_smoothing', 'average', 'beta1', 'beta2', 'momentum')
_SEEDS = 2**32  # jax.random.key repeats its keys after this many seeds


def check_config(config: ConfigDict) -> None:
  """Raise InputError if a value is invalid for any dataset and any devices.

  Old spellings of "not set" are first replaced by None, in place.
  """
  _check_names(config)
  normalize(config)
  _check_choices(config)
  _check_numbers(config)
  _check_pairs(config)
  _check_length(config)
  _check_keep_every(config)


def check_overrides(overrides: Mapping[str, Any]) -> None:
  """Raise InputError if a value of --override has the wrong type for its field, or is invalid."""
  config = default_config()
  for field, value in overrides.items():
    if field in MODEL_FIELDS:  # create_model names those that do not exist
      try:
        config[field] = value
      except TypeError as e:
        raise InputError(
          f'--override={field}={value} has a value of the wrong type. {last_line(e)}.'
        ) from e
  check_config(config)


def unknown_field(name: str) -> InputError:
  """Return the error for a config field that does not exist."""
  near = difflib.get_close_matches(name, default_config(), 1)
  hint = f'Did you mean {near[0]!r}?' if near else 'See vit_jax/config/fields.py for all fields.'
  return InputError(f'Unknown config field {name!r}. {hint}')


def _check_names(config: ConfigDict) -> None:
  for field in sorted(set(config) - set(default_config())):
    raise unknown_field(field)


def _check_choices(config: ConfigDict) -> None:
  for field, choices in _CHOICES.items():
    if config[field] not in choices:
      raise unknown(f'config.{field}', config[field], choices)


def _check_numbers(config: ConfigDict) -> None:
  for field in _AT_LEAST_1:
    if config[field] < 1:
      raise InputError(f'config.{field} must be at least 1, got {config[field]}.')
  for field in _NOT_NEGATIVE:
    if config[field] is not None and config[field] < 0:
      raise InputError(f'config.{field} must not be negative, got {config[field]}.')
  for field, value in config.items():
    if isinstance(value, float) and not math.isfinite(value):
      raise InputError(f'config.{field} must be a finite number, got {value}.')
  if config.seed >= _SEEDS:
    raise InputError(f'config.seed must be less than 2**32 = {_SEEDS}, got {config.seed}.')
  for field in _FRACTIONS:
    if config[field] is not None and not 0 <= config[field] < 1:
      raise InputError(f'config.{field} must be in [0, 1), got {config[field]}.')
  balance = config.class_balance
  if balance is not None and not 0 <= balance <= 1:
    raise InputError(f'config.class_balance must be in [0, 1], got {balance}.')


def _check_pairs(config: ConfigDict) -> None:
  if config.rand_augment is not None and len(config.rand_augment) != 2:
    raise InputError(
      f'config.rand_augment={tuple(config.rand_augment)} must be two numbers: how many operations '
      'to apply to an image, and their magnitude.'
    )
  if not config.fewshot_shots or min(config.fewshot_shots) < 1:
    raise InputError(
      f'config.fewshot_shots={tuple(config.fewshot_shots)} must be one or more numbers, each at '
      'least 1.'
    )
  steps = config.profile_steps
  if steps is not None and (len(steps) != 2 or not 0 <= steps[0] <= steps[1]):
    raise InputError(
      f'config.profile_steps={tuple(steps)} must be two numbers: the first and the last step to '
      'trace.'
    )


def _check_length(config: ConfigDict) -> None:
  if config.total_steps is None and config.num_epochs == 0:
    raise InputError('config.num_epochs is 0 and config.total_steps is not set. Set one of them.')


def _check_keep_every(config: ConfigDict) -> None:
  every, save_every = config.keep_every, config.save_every
  if every and (not save_every or every % save_every):
    raise InputError(
      f'config.keep_every={every} must be a multiple of config.save_every={save_every}.'
    )
