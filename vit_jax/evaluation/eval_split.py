"""Find and open the split of a dataset to evaluate on, by default that of a training run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from vit_jax.data.batch import ReadOptions
from vit_jax.data.dataset_names import absolute_path
from vit_jax.data.open_source import describe_dataset, open_source
from vit_jax.data.pipeline import eval_batches
from vit_jax.data.preprocess import EvalPreprocess, make_eval_preprocess
from vit_jax.data.source import Source
from vit_jax.data.subset import evenly
from vit_jax.errors import InputError


class EvalSplit(NamedTuple):
  """The evaluation split of a training run, with its preprocessing."""

  source: Source
  preprocess: EvalPreprocess
  name: str  # dataset and split, such as 'cifar10, test'

  def images(self, count: int, *, max_bad_records: int = 0) -> Iterator[np.ndarray]:
    """Yield preprocessed images, (S, S, 3) uint8, evenly spaced over the split.

    Args:
      count: number of images. If the split has fewer, all are taken.
      max_bad_records: number of damaged images to leave out before it is an error.
    """
    options = ReadOptions(batch_size=16, max_bad_records=max_bad_records)
    with eval_batches(evenly(self.source, count), self.preprocess, options) as batches:
      for batch in batches:
        yield from np.asarray(batch['image'])[batch['mask']]


def open_eval_split(config: Mapping[str, Any], image_size: int | None = None) -> EvalSplit:
  """Open the split that a training run evaluates on.

  Args:
    config: {field: value} of the run.
    image_size: side of the images, in pixels. Defaults to that of the run. If it
      differs, the size before cropping changes in proportion.

  Raises:
    InputError: the run has no evaluation split, or it cannot be read.
  """
  dataset, data_dir = config['dataset'], config['data_dir']
  split = config['eval_split'] or describe_dataset(dataset, data_dir).eval_split
  if split == 'none':
    raise InputError('The run has no evaluation split (config.eval_split=none).')
  source = open_source(dataset, split, data_dir)
  size, resize_size = image_size or config['image_size'], config['resize_size']
  if resize_size is not None:
    resize_size = round(resize_size * size / config['image_size'])
  preprocess = make_eval_preprocess(
    config['preset'],
    size,
    resize_size=resize_size,
    eval_filter=config['eval_filter'],
    apply_exif=source.apply_exif,
    fast_dct=config['fast_dct'],
  )
  return EvalSplit(source, preprocess, f'{dataset}, {split}')


def is_dataset_of(config: Mapping[str, Any], dataset: str) -> bool:
  """Return whether a training run, {field: value} or empty, was trained on a dataset."""
  return bool(config) and absolute_path(config['dataset']) == absolute_path(dataset)


def find_eval_split(dataset: str, config: Mapping[str, Any], data_dir: str | None) -> str:
  """Return the name of the split to evaluate on.

  Args:
    dataset: name of the dataset.
    config: {field: value} of a training run, or empty. If the run was trained on the same dataset,
      its evaluation split is taken. Otherwise the split is that of the dataset.
    data_dir: directory of the TFDS datasets.

  Raises:
    InputError: neither the run nor the dataset has an evaluation split.
  """
  split = config['eval_split'] if is_dataset_of(config, dataset) else None
  if not split or split == 'none':
    split = describe_dataset(dataset, data_dir).eval_split
  if split == 'none':
    raise InputError(f'Dataset {dataset} has no evaluation split. Choose a split with --split.')
  return split
