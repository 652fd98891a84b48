"""The images that a run evaluates on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ml_collections import ConfigDict
import numpy as np

from vit_jax.data.open_source import describe_dataset, open_source
from vit_jax.data.pipeline import eval_batches
from vit_jax.data.preprocess import Preprocess, make_preprocess
from vit_jax.data.source import Source
from vit_jax.errors import InputError
from vit_jax.figures.examples import spread_evenly


class Split(NamedTuple):
  """The evaluation split of a run."""

  source: Source
  preprocess: Preprocess
  name: str  # such as 'cifar10, test'

  def images(self, count: int, *, max_bad_records: int = 0) -> Iterator[np.ndarray]:
    """Yields `count` images, evenly over it: (S, S, 3) uint8 each, as a model sees them."""
    with eval_batches(
      spread_evenly(self.source, count),
      self.preprocess,
      batch_size=16,
      max_bad_records=max_bad_records,
    ) as batches:
      for batch in batches:
        yield from batch['image'][batch['mask']]


def evaluation_split(c: ConfigDict, image_size: int | None = None) -> Split:
  """Opens the evaluation split of a run's config.

  Args:
    c: the config.
    image_size: pixels, where not the config's.
  Raises:
    InputError: it has none, or it cannot be read.
  """
  name = c.eval_split or describe_dataset(c.dataset, c.data_dir or None).eval_split
  if name == 'none':
    raise InputError('The run has no evaluation split (config.eval_split=none).')
  source = open_source(c.dataset, name, c.data_dir or None)
  size = image_size or c.image_size
  preprocess = make_preprocess(
    c.preset,
    image_size=size,
    train=False,
    apply_exif=source.apply_exif,
    resize_size=round(c.resize_size * size / c.image_size) or None,
  )
  return Split(source, preprocess, f'{c.dataset}, {name}')
