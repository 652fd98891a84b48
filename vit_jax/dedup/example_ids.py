"""What a record of a data set is called, so that it is the same one on another day."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
import hashlib
import itertools
import os
import re
from typing import NamedTuple

import numpy as np

from vit_jax.data import folder, prepared, vtab_tasks
from vit_jax.data.open_source import is_folder, open_source, split_names
from vit_jax.data.splits import named_splits, split_ranges


class ExampleId(NamedTuple):
  """A record of a data set: 'train 1234'."""

  split: str  # a whole one, never a slice
  index: int  # in it, in the order of `open_source`

  def __str__(self) -> str:
    return f'{self.split} {self.index}'


class ExampleIds:
  """The records that a split expression stands for, and what they are called.

  Attributes:
    dataset: as given; ids of a task of VTAB-1k are those of the data set that it is part of.
    split: in TFDS notation.
    data_dir: where TFDS data sets lie.
    identity: what must not change for ids to hold: 'cifar10/3.0.2', or 'folder'.
    splits: for each split there is a record of, what must not change either: '50000', the number
      of its records; of a folder with a digest of its file names, '812/9f86d081884c7d65'.
  """

  def __init__(self, dataset: str, split: str, data_dir: str | None = None):
    """Raises InputError like `open_source`."""
    self.dataset, self.split, self.data_dir = dataset, split, data_dir
    self.source = open_source(dataset, split, data_dir)
    if dataset.startswith('vtab/'):  # a task, made of parts of a data set
      task = vtab_tasks.find_task(dataset.removeprefix('vtab/'))
      dataset, split = task.dataset, task.splits[split]
    names = split_names(dataset, data_dir)
    used = names if split == 'all' else [n for n in names if n in named_splits(split)]
    if is_folder(dataset):
      self.identity = 'folder'
      sizes, self.splits = _look_into_folder(dataset, used)
    else:
      info = prepared.read_info(prepared.find(dataset, data_dir))
      self.identity = info.full_name
      sizes = {name: info.splits[name].num_examples for name in used}
      self.splits = {name: str(sizes[name]) for name in used}
    ranges = split_ranges(split, {name: [sizes.get(name, 0)] for name in names})
    self.ranges = [(name, start, stop) for name, start, stop in ranges if start < stop]
    # Of slices of a folder which images they are; those of TFDS are ranges.
    self._taken = [
      folder.sample(sizes[name], start, stop)
      if self.identity == 'folder' and stop - start < sizes[name]
      else None
      for name, start, stop in self.ranges
    ]
    self._ends = list(itertools.accumulate(stop - start for _, start, stop in self.ranges))

  def __len__(self) -> int:
    return self._ends[-1]

  def __str__(self) -> str:
    return f'{self.dataset}:{self.split}'

  def id(self, position: int) -> ExampleId:
    """The id of record `position` of the source."""
    part = bisect.bisect_right(self._ends, position)
    (name, start, stop), taken = self.ranges[part], self._taken[part]
    offset = stop - start - (self._ends[part] - position)
    return ExampleId(name, start + offset if taken is None else int(taken[offset]))

  def positions(self, indices: Mapping[str, np.ndarray]) -> np.ndarray:
    """The inverse of `id`: where records are in the source, (n,) int64, ascending.

    Args:
      indices: {split: (m,) ascending}, of every split there is; those that the split expression
        does not take are passed over.
    """
    found, begin = [np.empty(0, np.int64)], 0
    for (name, start, stop), taken in zip(self.ranges, self._taken):
      wanted = indices[name]
      offsets = (
        wanted[(wanted >= start) & (wanted < stop)] - start
        if taken is None
        else np.flatnonzero(np.isin(taken, wanted))
      )
      found.append(offsets + begin)
      begin += stop - start
    return np.concatenate(found)


def _look_into_folder(directory: str, names: list[str]) -> tuple[dict[str, int], dict[str, str]]:
  """({split: number of images}, {split: that and a digest of their names in order})."""
  sizes, splits = {}, {}
  root = os.path.expanduser(directory)
  for name in names:
    images = open_source(directory, name)
    digest = hashlib.sha256()
    for i in range(len(images)):
      digest.update(os.fsencode(os.path.relpath(images.record_name(i), root)) + b'\n')
    sizes[name] = len(images)
    splits[name] = f'{len(images)}/{digest.hexdigest()[:16]}'
  return sizes, splits


def parse_dataset(text: str, default_split: str) -> tuple[str, str]:
  """'cifar10:test' -> ('cifar10', 'test'); a version, which begins with a digit, is no split."""
  match = re.fullmatch(r'(.+?):([A-Za-z][\w-]*(?:\[[^]]*\])?(?:\+[\w-]+(?:\[[^]]*\])?)*)', text)
  return (match[1], match[2]) if match else (text, default_split)
