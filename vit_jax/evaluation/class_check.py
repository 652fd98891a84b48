"""Match the classes of a model with those of a dataset, by their names where both are known."""

from __future__ import annotations

import collections
from collections.abc import Sequence
import logging
import re

import numpy as np

from vit_jax.data.class_names import imagenet_names
from vit_jax.data.source import Source
from vit_jax.errors import InputError, shortlist
from vit_jax.pretrained.load import Loaded

log = logging.getLogger('vit_jax')

_LISTED = 3  # names of classes in a message
# Share of the classes that must have the name of their place, if the other names are only spelled
# in another way. ImageNet's are: WordNet ids, one lemma, or all of them.
_SAME_SPELLING = 0.5


def match_classes(
  loaded: Loaded,
  source: Source,
  *,
  checkpoint: str,
  dataset: str,
  trained_on_it: bool,
  remedy: str,
  given_names: Sequence[str] | None = None,
  by_position: bool = False,
) -> np.ndarray | None:
  """Return which class of the model is which class of the dataset.

  Args:
    loaded: the model and the names of its classes.
    source: the images to evaluate on.
    checkpoint: name of the checkpoint, for messages.
    dataset: name of the dataset, for messages.
    trained_on_it: True if the model was trained on this dataset. More classes are then no surprise.
    remedy: sentence for messages, which says what to do if the names do not match.
    given_names: names of the model's classes that the user gave. They only count if they are those
      of the dataset. Otherwise they are another spelling.
    by_position: match class k of the model with class k of the dataset, whatever their names.

  Returns:
    (C,) int: the classes of the model, those of the dataset first, in its order, then the others.
    None if the first classes of the model are those of the dataset.

  Raises:
    InputError: the model has fewer classes than the dataset, none for some of its names, or
      several.
  """
  model_classes, data_classes = loaded.model.num_classes, source.num_classes
  if model_classes < data_classes:
    classes = f'has {model_classes:,} classes' if model_classes else 'has no head'
    raise InputError(
      f'The model of {checkpoint} {classes}, but {dataset} has {data_classes:,} classes. '
      f'Fine-tune it on {dataset} first.'
    )
  names = loaded.class_names
  if not names and model_classes != data_classes:
    names = imagenet_names(model_classes)
  if by_position or not source.class_names or not (names or given_names):
    if model_classes > data_classes and not trained_on_it:
      log.warning(
        'The model has %s classes. The first %s are taken to be those of %s.',
        f'{model_classes:,}',
        f'{data_classes:,}',
        dataset,
      )
    return None
  wanted = source.class_names
  for known in (given_names, names):
    if known and (indices := _find(wanted, known)) is not None:
      return _order(indices, model_classes, dataset)
  if not names or _placeholders(names) or _placeholders(wanted) or _same_spelling(wanted, names):
    return None
  known = set(names)
  if missing := [name for name in wanted if name not in known]:
    raise InputError(
      f'The model of {checkpoint} does not have these classes of {dataset}: {_listed(missing)}. '
      f'Its classes are {_listed(names)}. {remedy}'
    )
  counts = collections.Counter(wanted) | collections.Counter(names)
  repeated = [name for name in dict.fromkeys(wanted) if counts[name] > 1]
  raise InputError(
    f'The classes of {dataset} and of the model of {checkpoint} are in another order and cannot be '
    f'matched by name, because several have the same: {_listed(repeated)}. {remedy}'
  )


def _listed(names: Sequence[str]) -> str:
  return shortlist(map(repr, names), _LISTED)


def _find(wanted: Sequence[str], names: Sequence[str]) -> np.ndarray | None:
  """Return the index of each wanted name among `names`, or None if not all are there once.

  Names that begin like the wanted ones match these in order, and may then be repeated.
  """
  for spell in (str, _simplified):
    ours, theirs = [spell(name) for name in wanted], [spell(name) for name in names]
    if theirs[: len(ours)] == ours:
      return np.arange(len(ours))
    index, counts = {name: i for i, name in enumerate(theirs)}, collections.Counter(theirs)
    if len(set(ours)) == len(ours) and all(counts[name] == 1 for name in ours):
      return np.array([index[name] for name in ours])
  return None


def _simplified(name: str) -> str:
  """Return a name without differences of spelling: 'Great_White-Shark' -> 'great white shark'."""
  return ' '.join(re.sub(r'[_-]', ' ', name).casefold().split())


def _order(indices: np.ndarray, num_classes: int, dataset: str) -> np.ndarray | None:
  """Return the order of the model's classes. Log it if it is not the model's own."""
  if (indices == np.arange(len(indices))).all():
    return None
  log.warning(
    'Some classes of %s have another number in the model. They are matched by name.', dataset
  )
  return np.concatenate([indices, np.setdiff1d(np.arange(num_classes), indices)])


def _placeholders(names: Sequence[str]) -> bool:
  """Return whether names only count: '0', '1', ..., or 'LABEL_0', 'LABEL_1', ..."""
  return all(
    re.fullmatch(rf'((label|class)[ _-]?)?{i}', name, re.IGNORECASE) for i, name in enumerate(names)
  )


def _same_spelling(wanted: Sequence[str], names: Sequence[str]) -> bool:
  """Return whether `names` are the classes of ImageNet whose WordNet ids are wanted."""
  if len(wanted) != len(names) or not all(re.fullmatch(r'n\d{8}', name) for name in wanted):
    return False
  readable = imagenet_names(len(wanted)) or []
  first = lambda name: _simplified(name.split(',')[0])
  same = [first(one) == first(other) for one, other in zip(readable, names)]
  return bool(same) and sum(same) >= _SAME_SPELLING * len(same)
