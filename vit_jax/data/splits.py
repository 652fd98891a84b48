"""Read split expressions in TFDS notation, such as 'train[:98%]+validation'."""

from __future__ import annotations

from collections.abc import Mapping
import re

import numpy as np

from vit_jax.errors import InputError, last_line, unknown


def named_splits(split: str) -> set[str]:
  """Return the split names in an expression: 'train[:9]+test' -> {'train', 'test'}."""
  return set(re.findall(r'(?:^|\+)\s*([\w-]+)', split))


def split_ranges(split: str, shards: Mapping[str, list[int]]) -> list[tuple[str, int, int]]:
  """Return the (name, start, stop) ranges of examples that a split expression selects.

  Args:
    split: in TFDS notation, such as 'train[:98%]+validation'.
    shards: for each split of the dataset, the number of examples in each of its files.

  Raises:
    InputError: the notation is wrong, a split is unknown, a slice is out of bounds, or no examples
      are selected.
  """
  import tensorflow_datasets as tfds

  infos = {
    name: tfds.core.SplitInfo(name=name, shard_lengths=lengths, num_bytes=0)
    for name, lengths in shards.items()
  }
  missing = sorted(named_splits(split) - set(shards) - {'all'})
  if missing:
    raise unknown('split', missing[0], shards)
  try:
    ranges = [
      (r.splitname, r.from_ or 0, infos[r.splitname].num_examples if r.to is None else r.to)
      for r in tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    ]
  except (ValueError, AssertionError) as e:
    raise InputError(f'Cannot read the split {split!r}: {last_line(e)}') from e
  if not any(start < stop for _, start, stop in ranges):
    raise InputError(f'The split {split!r} holds no examples. Choose another slice.')
  return ranges


def split_rows(split: str, sizes: Mapping[str, int]) -> list[tuple[str, np.ndarray]]:
  """Return the (name, indices) that a split expression selects. A slice is a random `sample`.

  Args:
    split: in TFDS notation, such as 'train[:98%]+validation'.
    sizes: number of images in each split of the dataset.

  Raises:
    InputError: as `split_ranges`.
  """
  ranges = split_ranges(split, {name: [size] for name, size in sizes.items()})
  return [(name, sample(sizes[name], start, stop)) for name, start, stop in ranges]


def sample(size: int, start: int, stop: int) -> np.ndarray:
  """Return the images in the slice [start:stop] of a split, as (stop - start,) int, ascending.

  `start` and `stop` count in a fixed random order of all `size` images, as in a dataset that TFDS
  has shuffled. In a folder, the files are sorted by class, so the last 10 % would lack most
  classes.
  """
  if (start, stop) == (0, size):
    return np.arange(size)
  # RandomState, unlike Generator, promises the same permutation in every NumPy version.
  return np.sort(np.random.RandomState(0).permutation(size)[start:stop])
