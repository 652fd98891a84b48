"""Check that the classes of a model are those of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
import logging

from vit_jax.data.source import Source
from vit_jax.errors import InputError
from vit_jax.pretrained.load import Loaded

log = logging.getLogger('vit_jax')


def check_classes(
  loaded: Loaded, source: Source, *, checkpoint: str, dataset: str, trained_on_it: bool
) -> None:
  """Raise an error if the model has too few classes, and warn if they may differ from the data.

  Args:
    loaded: the model and the names of its classes.
    source: the images to evaluate on.
    checkpoint: name of the checkpoint, for messages.
    dataset: name of the dataset, for messages.
    trained_on_it: True if the model was trained on this dataset. More classes are then no surprise.

  Raises:
    InputError: the model has fewer classes than the dataset.
  """
  model_classes, data_classes = loaded.model.num_classes, source.num_classes
  if model_classes < data_classes:
    classes = f'has {model_classes:,} classes' if model_classes else 'has no head'
    raise InputError(
      f'The model of {checkpoint} {classes}, but {dataset} has {data_classes:,} classes. '
      f'Fine-tune it on {dataset} first.'
    )
  model_index, data_index = _indices(loaded.class_names), _indices(source.class_names)
  moved = [(i, name) for name, i in data_index.items() if model_index.get(name, i) != i]
  if moved:
    index, name = min(moved)
    log.warning(
      'Class %r is number %d of the model, but number %d of %s. The accuracy may be meaningless.',
      name,
      model_index[name],
      index,
      dataset,
    )
  elif model_classes > data_classes and not trained_on_it:
    log.warning(
      'The model has %s classes. The first %s are taken to be those of %s.',
      f'{model_classes:,}',
      f'{data_classes:,}',
      dataset,
    )


def _indices(names: Sequence[str] | None) -> dict[str, int]:
  """Return the index of each name, the first one if a name occurs several times."""
  return {name: i for i, name in reversed(list(enumerate(names or [])))}
