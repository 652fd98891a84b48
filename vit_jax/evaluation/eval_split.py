"""The images that a run evaluates on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from vit_jax.data.batch import ReadOptions
from vit_jax.data.open_source import describe_dataset, open_source
from vit_jax.data.pipeline import eval_batches
from vit_jax.data.preprocess import Preprocess, make_eval_preprocess
from vit_jax.data.source import Source
from vit_jax.data.subset import evenly
from vit_jax.errors import InputError


class EvalSplit(NamedTuple):
  """The evaluation split of a run."""

  source: Source
  preprocess: Preprocess
  name: str  # such as 'cifar10, test'

  def images(self, count: int, *, max_bad_records: int = 0) -> Iterator[np.ndarray]:
    """Yields `count` images, evenly over it: (S, S, 3) uint8 each, as a model sees them."""
    options = ReadOptions(batch_size=16, max_bad_records=max_bad_records)
    source = evenly(self.source, count)
    with eval_batches(source, self.preprocess, options) as batches:
      for batch in batches:
        yield from batch['image'][batch['mask']]


def open_eval_split(config: Mapping[str, Any], image_size: int | None = None) -> EvalSplit:
  """Opens the evaluation split of a run's config.

  Args:
    config: the fields of the run.
    image_size: pixels, where not the config's.
  Raises:
    InputError: it has none, or it cannot be read.
  """
  dataset, data_dir = config['dataset'], config['data_dir']
  name = config['eval_split'] or describe_dataset(dataset, data_dir).eval_split
  if name == 'none':
    raise InputError('The run has no evaluation split (config.eval_split=none).')
  source = open_source(dataset, name, data_dir)
  size, resize_size = image_size or config['image_size'], config['resize_size']
  if resize_size is not None:
    resize_size = round(resize_size * size / config['image_size'])
  preprocess = make_eval_preprocess(
    config['preset'], size, resize_size=resize_size, apply_exif=source.apply_exif
  )
  return EvalSplit(source, preprocess, f'{dataset}, {name}')
