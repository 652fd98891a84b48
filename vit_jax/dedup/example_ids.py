"""Ids of the examples of a dataset, which stay the same when other slices of it are read."""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import os
import re
from typing import NamedTuple

import numpy as np

from vit_jax.data import tfds_directory, vtab_tasks
from vit_jax.data.dataset_names import is_own_data
from vit_jax.data.open_source import open_source, split_names
from vit_jax.data.prefixes import PREFIXES
from vit_jax.data.splits import named_splits, sample, split_ranges
from vit_jax.data.subset import Concatenation
from vit_jax.files import user_path


class ExampleId(NamedTuple):
  """The id of an example, such as 'train 1234'."""

  split: str  # a whole split, never a slice
  index: int  # in the split, in the order of `open_source`

  def __str__(self) -> str:
    return f'{self.split} {self.index}'


class ExampleIds:
  """The examples that a split expression selects, and their ids.

  Attributes:
    dataset: name of the dataset, as given. The ids of a VTAB-1k task are those of the dataset that
      it was made from.
    split: split expression in TFDS notation.
    data_dir: directory of TFDS datasets.
    source: the examples.
    identity: name and version of the dataset, such as 'cifar10/3.0.2', or the kind of your own
      data: 'folder' or 'wds'. Ids are valid only while it stays the same.
    splits: for each split that is used, a text that must also stay the same: the number of
      examples ('50000'), and for your own data a digest of the names of the images, too
      ('812/9f86d081884c7d65').
    ranges: (split, start, stop) of each part of the split expression.
  """

  def __init__(self, dataset: str, split: str, data_dir: str | None = None):
    """Open the dataset. Raises InputError as `open_source` does."""
    self.dataset, self.split, self.data_dir = dataset, split, data_dir
    self.source = open_source(dataset, split, data_dir)
    if dataset.startswith('vtab/'):  # a task that is made of parts of another dataset
      task = vtab_tasks.find_task(dataset.removeprefix('vtab/'))
      dataset, split = task.dataset, task.splits[split]
    names = split_names(dataset, data_dir)
    used = names if split == 'all' else [n for n in names if n in named_splits(split)]
    is_own = is_own_data(dataset)
    if is_own:
      self.identity = dataset.split(':')[0] if dataset.startswith(PREFIXES) else 'folder'
      sizes, self.splits = _inspect_files(dataset, used)
    else:
      info = tfds_directory.read_info(tfds_directory.find_directory(dataset, data_dir))
      self.identity = info.full_name
      sizes = {name: info.splits[name].num_examples for name in used}
      self.splits = {name: str(sizes[name]) for name in used}
    ranges = split_ranges(split, {name: [sizes.get(name, 0)] for name in names})
    self.ranges = [(name, start, stop) for name, start, stop in ranges if start < stop]
    # A slice of a TFDS dataset is a range. A slice of anything else is a random sample of it.
    self._samples = [
      sample(sizes[name], start, stop) if is_own and stop - start < sizes[name] else None
      for name, start, stop in self.ranges
    ]
    self._slices = Concatenation(stop - start for _, start, stop in self.ranges)

  def __len__(self) -> int:
    return len(self._slices)

  def __str__(self) -> str:
    return f'{self.dataset}:{self.split}'

  def id(self, position: int) -> ExampleId:
    """Return the id of the example at a position of the source."""
    part, offset = self._slices.locate(position)
    (name, start, _), chosen = self.ranges[part], self._samples[part]
    return ExampleId(name, start + offset if chosen is None else int(chosen[offset]))

  def positions(self, indices: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the positions of examples in the source: (n,) int64. The inverse of `id`.

    Args:
      indices: for every split, the indices of examples in it, (m,) ascending. Those that the split
        expression does not select are ignored.
    """
    positions, begin = [np.empty(0, np.int64)], 0
    for (name, start, stop), chosen in zip(self.ranges, self._samples):
      wanted = indices[name]
      if chosen is None:
        offsets = wanted[(wanted >= start) & (wanted < stop)] - start
      else:
        offsets = np.flatnonzero(np.isin(chosen, wanted))
      positions.append(offsets + begin)
      begin += stop - start
    return np.concatenate(positions)


def _inspect_files(dataset: str, names: list[str]) -> tuple[dict[str, int], dict[str, str]]:
  """Return {split: number of images}, and {split: that number, and a digest of the file names}."""
  sizes, splits = {}, {}
  root = None if dataset.startswith(PREFIXES) else user_path(dataset)
  for name in names:
    images = open_source(dataset, name)
    digest = hashlib.sha256()
    for i in range(len(images)):
      path = images.location(i)
      name_of_image = os.path.relpath(path, root) if root else '/'.join(path.split('/')[-2:])
      digest.update(os.fsencode(name_of_image) + b'\n')
    sizes[name] = len(images)
    splits[name] = f'{len(images)}/{digest.hexdigest()[:16]}'
  return sizes, splits


def parse_dataset(text: str, default_split: str) -> tuple[str, str]:
  """Split 'cifar10:test' into dataset and split.

  A version, as in 'imagenet2012:5.1.0', begins with a digit and so is not taken for a split.
  """
  kind = next((prefix for prefix in PREFIXES if text.startswith(prefix)), '')
  split = r'[A-Za-z][\w-]*(?:\[[^]]*\])?(?:\+[\w-]+(?:\[[^]]*\])?)*'
  match = re.fullmatch(rf'(.+?):({split})', text.removeprefix(kind))
  return (kind + match[1], match[2]) if match else (text, default_split)
