"""The fields of a batch, and the options for reading batches."""

from collections.abc import Sequence
import dataclasses
import math
import os
from typing import Any, TypedDict

import numpy as np

from vit_jax.errors import InputError

Array = Any  # an np.ndarray on the host, a jax.Array in a step


class Batch(TypedDict):
  """A batch of images, on the way from the input pipeline to a step. b is the number of rows.

  The input pipeline makes all of the fields, as NumPy arrays. No field is added later.
  """

  image: Array  # (b, S, S, 3) uint8; zeros where mask is False
  label: Array  # (b,) int32; if images have several labels, multi-hot (b, K) uint8
  mask: Array  # (b,) bool; False where there is no readable image
  # (b,) int32. In training: the row in the global batch, which determines dropout and mixup. In
  # evaluation: the index of the image in its split.
  example: Array


def check_batch_fits(rows: int, image_shape: Sequence[int]) -> None:
  """Raise InputError if the images of a batch take more than a quarter of this machine's memory.

  A few batches are in memory at the same time. The system would kill the process without a word.

  Args:
    rows: number of images in this process's share of a batch.
    image_shape: shape of an image of bytes.
  """
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  needed = rows * math.prod(image_shape)
  if 4 * needed > memory:
    raise InputError(
      f'A batch of {rows:,} images takes {needed / 1e9:,.1f} GB, but this machine has '
      f'{memory / 1e9:,.1f} GB of memory, which must hold at least four. Choose a smaller batch '
      'size.'
    )


@dataclasses.dataclass(frozen=True)
class ReadOptions:
  """Options for reading batches.

  Attributes:
    batch_size: number of images in a global batch, over all processes.
    process_index: index of this process. It gets rows [p * b, (p + 1) * b) of each global batch,
      with p = process_index and b = batch_size // process_count.
    process_count: number of processes that share each batch.
    num_threads: number of threads that read and preprocess, in each worker if there are any.
      Defaults to one per CPU, shared among the workers.
    num_workers: number of worker processes. With 0, threads of this process do the work.
    max_bad_records: number of damaged records to skip. One more is an error. A damaged record
      leaves zeros and a False mask in its row.

  Raises:
    InputError: batch_size is not a positive multiple of process_count.
  """

  batch_size: int
  process_index: int = 0
  process_count: int = 1
  num_threads: int | None = None
  num_workers: int = 0
  max_bad_records: int = 0

  def __post_init__(self) -> None:
    count = self.process_count
    if self.batch_size <= 0 or self.batch_size % count:
      raise InputError(
        f'batch_size={self.batch_size} does not divide over {count} process(es). Choose a '
        f'positive multiple of {count}.'
      )

  @property
  def rows(self) -> int:
    """Number of rows in this process's share of a global batch."""
    return self.batch_size // self.process_count

  @property
  def global_rows(self) -> np.ndarray:
    """Indices of this process's rows in the global batch: (b,) int32."""
    first = self.process_index * self.rows
    return np.arange(first, first + self.rows, dtype=np.int32)
