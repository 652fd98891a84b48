"""Select examples of a source by index, and locate an index in concatenated parts."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable
import itertools

import numpy as np

from vit_jax.data.source import Example, Source
from vit_jax.errors import InputError


class Subset(Source):
  """The examples of a source at some indices, in the order of the indices."""

  def __init__(self, source: Source, indices: np.ndarray):
    """Select the examples at `indices`, (n,) int, each in [0, len(source))."""
    self._source, self._indices = source, indices
    self.num_classes, self.class_names = source.num_classes, source.class_names
    self.multi_label, self.apply_exif = source.multi_label, source.apply_exif
    self.newly_listed, self.is_remote = source.newly_listed, source.is_remote

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> Example:
    return self._source[int(self._indices[index])]

  def start(self, index: int) -> Callable[[], Example]:
    """Start to read an example."""
    return self._source.start(int(self._indices[index]))

  def label(self, index: int) -> int | np.ndarray:
    """Return the label of an example."""
    return self._source.label(int(self._indices[index]))

  @property
  def has_labels_apart(self) -> bool:
    """True if `label` reads no image."""
    return self._source.has_labels_apart

  def location(self, index: int) -> str:
    """Return the place where the example is stored."""
    return self._source.location(int(self._indices[index]))


def without(source: Source, indices: np.ndarray) -> Subset:
  """Return the source without the examples at `indices`, (n,) int. The others keep their order.

  Raises:
    InputError: nothing remains.
  """
  kept = np.delete(np.arange(len(source)), indices)
  if not len(kept):
    raise InputError(
      f'All {len(source):,} examples are excluded, so none remain. Exclude fewer examples.'
    )
  return Subset(source, kept)


def evenly(source: Source, count: int) -> Subset:
  """Return `count` examples, evenly spaced over the source, or all of them if it has fewer."""
  count = min(count, len(source))
  return Subset(source, np.linspace(0, len(source) - 1, count).round().astype(int))


class Concatenation:
  """Maps an index into concatenated parts, such as the files of a split, to the part and offset."""

  def __init__(self, lengths: Iterable[int]):
    """Compute the end of each part."""
    self._ends = list(itertools.accumulate(lengths))

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def locate(self, index: int) -> tuple[int, int]:
    """Return (number of the part, offset in it) of an index into the whole.

    Raises:
      IndexError: the index is negative, or is not less than the total length.
    """
    if not 0 <= index < len(self):
      raise IndexError(f'Index {index} is out of range for {len(self)} examples.')
    part = bisect.bisect_right(self._ends, index)
    return part, index - (self._ends[part - 1] if part else 0)
