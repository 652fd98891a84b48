"""A data set without some of its records."""

from __future__ import annotations

from typing import Any

import numpy as np

from vit_jax.data.source import Source
from vit_jax.errors import InputError


class Without(Source):
  """A source without the records at some positions; the others keep their order."""

  def __init__(self, source: Source, positions: np.ndarray):
    """Leaves out `positions`, (n,) int, each in [0, len(source)); raises InputError if all are."""
    self._source, self._kept = source, np.delete(np.arange(len(source)), positions)
    if not len(self._kept):
      raise InputError(f'all {len(source):,} records are left out: nothing remains to train on')
    self.num_classes, self.class_names = source.num_classes, source.class_names
    self.multi_label, self.apply_exif = source.multi_label, source.apply_exif

  def __len__(self) -> int:
    return len(self._kept)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self._source[int(self._kept[index])]

  def label(self, index: int) -> int | np.ndarray:
    return self._source.label(int(self._kept[index]))

  def record_name(self, index: int) -> str:
    return self._source.record_name(int(self._kept[index]))
