"""Choose the splits of a sweep, and check that no image is in two of them."""

import itertools
from typing import NamedTuple

from ml_collections import ConfigDict

from vit_jax.data.open_source import describe_dataset, open_source, split_names
from vit_jax.data.splits import named_splits, split_ranges
from vit_jax.errors import InputError


class Splits(NamedTuple):
  """The splits of a dataset that a sweep uses, in TFDS notation."""

  tune: str  # each learning rate is trained on this split
  dev: str  # the learning rates are compared on this split
  train: str  # the final runs are trained on this split
  test: str  # the final runs are evaluated on this split


def find_splits(c: ConfigDict, tune: str | None = None, dev: str | None = None) -> Splits:
  """Return the splits of a sweep. Those that are not given are the dataset's own.

  Args:
    c: config of a run, which may set train_split and eval_split.
    tune: split to train each learning rate on.
    dev: split to compare the learning rates on.

  Raises:
    InputError: there is nothing to evaluate on, a split does not exist, two splits that must be
      disjoint have images in common, or config.train_split is set without `tune` and `dev`.
  """
  info = describe_dataset(c.dataset, c.data_dir)
  if c.train_split not in (None, info.train_split) and not (tune and dev):
    raise InputError(
      f'config.train_split={c.train_split!r} is not the whole training split of {c.dataset}. '
      'Say which parts of it to train and to compare learning rates on: '
      '--tune_split=... --dev_split=...'
    )
  splits = Splits(
    tune or info.tune_split,
    dev or info.dev_split,
    c.train_split or info.train_split,
    c.eval_split or info.eval_split,
  )
  if splits.test == 'none':
    raise InputError(
      f'{c.dataset} has nothing to evaluate the final runs on. Give --config.eval_split=SPLIT.'
    )
  for split in splits:
    open_source(c.dataset, split, c.data_dir)  # raises InputError if there is no such split
  _check_disjoint(c, splits)
  return splits


def _check_disjoint(c: ConfigDict, splits: Splits) -> None:
  for a, b in (('tune', 'dev'), ('tune', 'test'), ('dev', 'test'), ('train', 'test')):
    one, other = getattr(splits, a), getattr(splits, b)
    if _overlap(c, one, other):
      raise InputError(
        f'The {a} split {one!r} and the {b} split {other!r} of {c.dataset} have images in common, '
        'which would make the result too good. Set --tune_split, --dev_split, '
        '--config.train_split or --config.eval_split.'
      )


def _overlap(c: ConfigDict, one: str, other: str) -> bool:
  """Return True if two splits have images in common."""
  names = named_splits(f'{one}+{other}')
  if 'all' in names:
    names = split_names(c.dataset, c.data_dir)
  sizes = {name: [len(open_source(c.dataset, name, c.data_dir))] for name in names}
  pairs = itertools.product(split_ranges(one, sizes), split_ranges(other, sizes))
  return any(
    name == other_name and max(start, other_start) < min(stop, other_stop)
    for (name, start, stop), (other_name, other_start, other_stop) in pairs
  )
