"""Find fields that were set but have no effect beside the other fields."""

from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vit_jax.config.fields import rand_augment
from vit_jax.config.length import both_lengths
from vit_jax.errors import InputError


class _Rule(NamedTuple):
  """The condition under which some fields have an effect."""

  fields: tuple[str, ...]
  holds: Callable[[ConfigDict], bool]
  other: str  # the field that decides
  remedy: str  # completes 'Leave it out, or ...'


def _needs(fields: tuple[str, ...], other: str, value: Any) -> _Rule:
  """Return the rule of fields that need `other` to have a value."""
  return _Rule(fields, lambda c: c[other] == value, other, f'set --config.{other}={value}')


_RULES = (
  _needs(('mesh',), 'parallel', 'mesh'),
  _needs(('linear_end',), 'schedule', 'linear'),
  _needs(('lr_drops',), 'schedule', 'steps'),
  _needs(('beta1', 'beta2'), 'optimizer', 'adam'),
  _needs(('momentum',), 'optimizer', 'sgd'),
  _needs(('mpp_target', 'mpp_rate'), 'pretext', 'masked_patches'),
  _Rule(
    ('loss', 'label_smoothing', 'mixup', 'num_classes', 'head_bias_init', 'representation_size'),
    lambda c: c.pretext is None,
    'pretext',
    'train on labels with --config.pretext=',
  ),
  _Rule(
    ('new_head',), lambda c: c.init_from is not None, 'init_from', 'set --config.init_from=FILE'
  ),
  _Rule(
    ('fewshot_every', 'fewshot_shots', 'fewshot_preset'),
    lambda c: c.fewshot is not None,
    'fewshot',
    'set --config.fewshot=DATASET',
  ),
  _Rule(
    ('decay',), lambda c: c.weight_decay > 0, 'weight_decay', 'set --config.weight_decay=NUMBER'
  ),
  _Rule(
    ('pos_embedding_at',),
    lambda c: c.pos_embedding != 'none',
    'pos_embedding',
    'set --config.pos_embedding=learned',
  ),
  _Rule(
    ('augment_ops',), lambda c: rand_augment(c)[0] > 0, 'augment', 'set --config.rand_augment=2,9'
  ),
  _Rule(
    ('augment',),
    lambda c: c.rand_augment is None or (c.mixup is None and c.pretext is None),
    'rand_augment',
    'leave out --config.rand_augment or --config.mixup',
  ),
)
# With these values nothing is asked for, so nothing is ignored. The mesh (0, 1) shards nothing.
_OFF = (None, False, 0, '', 'none', (), (0, 1))


def check_effect(
  config: ConfigDict, given: Set[str], recorded: Mapping[str, Any] | None = None
) -> list[str]:
  """Check that each field that the user set has an effect.

  Args:
    config: the config, with these fields.
    given: the fields that the user set, for example on the command line.
    recorded: the fields of the run that is resumed. What it was started with is no error.

  Returns:
    A sentence for each field without an effect that has the recorded value.

  Raises:
    InputError: a field has no effect beside the others.
  """
  notes = []
  for field, problem, remedy in _without_effect(config, given):
    if recorded is None or recorded[field] != config[field]:
      raise InputError(f'{problem} {remedy}')
    notes.append(f'{problem} The run being resumed was started like this, so it goes on.')
  return notes


def _without_effect(config: ConfigDict, given: Set[str]) -> Iterator[tuple[str, str, str]]:
  """Yield (field, what is wrong, what to do) for each given field without an effect."""
  for rule in _RULES:
    for field in rule.fields:
      if field in given and config[field] not in _OFF and not rule.holds(config):
        yield (
          field,
          f'config.{field}={config[field]!r} has no effect with '
          f'config.{rule.other}={config[rule.other]!r}.',
          f'Leave it out, or {rule.remedy}.',
        )
  if {'num_epochs', 'total_steps'} <= given and both_lengths(config):
    yield (
      'num_epochs',
      f'{both_lengths(config)} both set the length of the run.',
      'Give one of them.',
    )
