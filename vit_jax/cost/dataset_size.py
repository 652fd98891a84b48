"""Look up how many images and classes a config trains on, without reading the dataset."""

from typing import NamedTuple

from ml_collections import ConfigDict

from vit_jax.data import catalog
from vit_jax.data.open_source import describe_dataset, open_source
from vit_jax.errors import InputError


class DatasetSize(NamedTuple):
  """The size of a training split."""

  images: int
  classes: int


_JFT = DatasetSize(303_000_000, 18_291)  # JFT-300M, which is not public


def dataset_size(config: ConfigDict, num_images: int | None = None) -> DatasetSize:
  """Return the number of training images and classes of a config's dataset.

  The dataset itself is not needed if the catalog has it or if both numbers are given.

  Args:
    config: the fields of `vit_jax.config.fields.default_config`.
    num_images: overrides the number of training images. Defaults to that of the dataset.

  Raises:
    InputError: the dataset is not in the catalog and cannot be opened.
  """
  known_images, known_classes = _known_size(config)
  images, classes = num_images or known_images, config.num_classes or known_classes
  if images and classes:
    return DatasetSize(images, classes)
  try:
    info = describe_dataset(config.dataset, config.data_dir)
    split = config.train_split or info.train_split
    source = open_source(config.dataset, split, config.data_dir)
  except InputError as e:
    message = str(e).removesuffix('.')
    raise InputError(f'{message}. You can also give --num_images and --config.num_classes.') from e
  return DatasetSize(num_images or len(source), config.num_classes or source.num_classes)


def _known_size(config: ConfigDict) -> tuple[int | None, int | None]:
  """Return the images and classes in the catalog, with None for what it does not know."""
  if config.dataset == 'jft_300m':
    return _JFT
  info = catalog.lookup(config.dataset)
  if info is None:
    return None, None
  return info.count(config.train_split or info.train_split), info.num_classes
