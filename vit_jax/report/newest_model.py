"""Load the newest checkpoint of a run and predict images of its evaluation split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from vit_jax.errors import InputError
from vit_jax.evaluation.class_check import match_classes
from vit_jax.evaluation.eval_split import EvalSplit, open_eval_split
from vit_jax.figures.examples import Examples, Predictor, Sample
from vit_jax.inference.load_checkpoint import load_checkpoint
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.pretrained.load import Loaded


@dataclasses.dataclass(frozen=True)
class NewestModel:
  """The newest checkpoint of a run, and its predictions.

  Attributes:
    loaded: the model and its parameters.
    images: images of the evaluation split, (H, W, 3) uint8 each, as the model sees them.
    examples: predictions for these images, or an error that says why there are none.
    class_names: names of the model's classes.
    split: name of the evaluation split, such as 'cifar10, test'.
  """

  loaded: Loaded
  images: Sequence[np.ndarray]
  examples: Examples | InputError
  class_names: Sequence[str] = ()
  split: str = ''


def load_newest_model(workdir: pathlib.Path, *, num_images: int, batch_size: int) -> NewestModel:
  """Load the newest checkpoint and predict evenly spaced images of the evaluation split.

  Args:
    workdir: directory of the run.
    num_images: number of images.
    batch_size: number of images to compute at once on each device.

  Raises:
    InputError: the checkpoint cannot be loaded.
  """
  loaded, run = load_checkpoint(str(workdir))
  if run is None:
    raise InputError(f'{workdir} has no config.json that can be read.')
  config = run.config
  try:
    split = open_eval_split(config)
    if not loaded.model.num_classes:
      images = list(split.images(num_images, max_bad_records=config['max_bad_records']))
      no_head = InputError('The model has no head, so it does not predict classes.')
      return NewestModel(loaded, images, no_head, split=split.name)
    examples, names = _predict(loaded, config, split, num_images, batch_size)
  except InputError as e:
    return NewestModel(loaded, [], e)
  return NewestModel(loaded, list(examples.images), examples, names, split.name)


def _predict(
  loaded: Loaded, config: Mapping[str, Any], split: EvalSplit, num_images: int, batch_size: int
) -> tuple[Examples, list[str]]:
  """Return the predictions and the names of the classes."""
  dataset = config['dataset']
  order = match_classes(
    loaded,
    split.source,
    checkpoint='this run',
    dataset=dataset,
    trained_on_it=True,
    remedy='Give the classes the names that they had when the model was trained.',
  )
  if order is not None:
    raise InputError(f'The classes of {dataset} are in another order than those of the model.')
  partitioner = MeshPartitioner(batch_size * jax.device_count())
  sample = Sample(
    split.source,
    split.preprocess,
    count=num_images,
    batch_size=batch_size,
    max_bad_records=config['max_bad_records'],
  )
  predictor = Predictor(loaded.model, sample, partitioner, config['loss'])
  return predictor(partitioner.put(loaded.params)), predictor.names
