"""Read pieces of batches, the unit of work of a thread of the input pipeline."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vit_jax.data.batch import ReadOptions, check_batch_fits
from vit_jax.data.decode_warnings import collect_warnings
from vit_jax.data.order import Order
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.source import Example, Source
from vit_jax.errors import InputError

PIECE_ROWS = 16  # rows that one thread makes at a time; Grain costs about 0.1 ms per piece


class Problem(NamedTuple):
  """A record, and what is wrong with it."""

  record: str
  reason: str


class Piece(NamedTuple):
  """Some consecutive rows of a batch."""

  images: np.ndarray  # (rows, S, S, 3) uint8
  labels: np.ndarray  # (rows,) int32, or multi-hot (rows, K) uint8
  mask: np.ndarray  # (rows,) bool
  damaged: list[Problem]  # records that cannot be read
  warnings: list[Problem]  # records that have been read, although something is wrong with them


class Pieces:
  """Random access to the pieces of this process's batches: a Grain data source."""

  def __init__(
    self,
    source: Source,
    preprocess: Preprocess,
    order: Order,
    options: ReadOptions,
    start_step: int = 0,
  ):
    """Read one image to get the shape of all images.

    Args:
      source: labeled, encoded images.
      preprocess: picklable function (encoded image, random generator) -> (S, S, 3) uint8.
      order: the image of each example.
      options: size of a batch, and this process's share of it.
      start_step: number of the first batch.

    Raises:
      InputError: more than max_bad_records images at the beginning of the source are damaged, or a
        batch does not fit in memory.
    """
    self.rows, self.is_remote = options.rows, source.is_remote
    self.image_shape = _image_shape(source, preprocess, options.max_bad_records)
    check_batch_fits(self.rows, self.image_shape)
    self._source = source
    self._preprocess = preprocess
    self._order = order
    self._batch_size = options.batch_size
    self._first = start_step * options.batch_size + options.process_index * self.rows
    self._per_batch = -(-self.rows // PIECE_ROWS)

  def __len__(self) -> int:
    return 2**60  # never ends; in evaluation, the reader counts the batches

  def __getitem__(self, index: int) -> Piece:
    batch, piece = divmod(index, self._per_batch)
    start = piece * PIECE_ROWS
    rows = min(PIECE_ROWS, self.rows - start)
    images = np.empty((rows, *self.image_shape), np.uint8)
    labels = self.empty_labels(rows)
    mask = np.empty(rows, bool)
    piece = Piece(images, labels, mask, damaged=[], warnings=[])
    first = self._first + batch * self._batch_size + start
    waiting = [self._start(g) for g in range(first, first + rows)]  # all at once, if remote
    for row, started in enumerate(waiting):
      images[row], labels[row], mask[row] = self._read(first + row, started, piece)
    return piece

  def empty_labels(self, rows: int) -> np.ndarray:
    """Return an uninitialized array for the labels of this many images."""
    if self._source.multi_label:
      # Labels are multi-hot instead of a padded list of classes, because the largest number of
      # labels per image is known only after reading all images. A byte for each of 18,000 classes
      # adds an eighth to an image's 150,000 bytes.
      return np.empty((rows, self._source.num_classes), np.uint8)
    return np.empty(rows, np.int32)

  def _start(self, g: int) -> tuple[int, Callable[[], Example]] | None:
    """Start to read example g. Return the index of its image and how to get it, if it has any."""
    index = self._order.index(g)
    return None if index is None else (index, self._source.start(index))

  def _read(
    self, g: int, started: tuple[int, Callable[[], Example]] | None, piece: Piece
  ) -> tuple[np.ndarray | np.uint8, int | np.ndarray, bool]:
    """Return (image, label, mask) of example g. Add what is wrong with its record to `piece`."""
    if started is not None:
      index, wait = started
      try:
        with collect_warnings() as warnings:
          example = wait()
          image = self._preprocess(example['image'], self._order.rng(g))
        if warnings:
          piece.warnings.append(Problem(self._source.location(index), '; '.join(warnings)))
        return image, example['label'], True
      except InputError:
        raise
      except (ValueError, MemoryError) as e:
        piece.damaged.append(Problem(self._source.location(index), _reason(e)))
    return np.uint8(0), 0, False


def _image_shape(source: Source, preprocess: Preprocess, max_bad_records: int) -> tuple[int, ...]:
  """Return the shape of a preprocessed image, from the first record that is not damaged."""
  damaged = []
  for index in range(min(len(source), max_bad_records + 1)):
    try:
      with collect_warnings():  # they are reported when the image is read for a batch
        return np.shape(preprocess(source[index]['image'], np.random.default_rng(0)))
    except InputError:
      raise
    except (ValueError, MemoryError) as e:
      damaged.append(Problem(source.location(index), _reason(e)))
  raise too_many_damaged(damaged[-1], len(damaged))


def _reason(error: ValueError | MemoryError) -> str:
  return str(error) if isinstance(error, ValueError) else 'there is not enough memory to decode it'


def too_many_damaged(problem: Problem, count: int) -> InputError:
  """Return the error for the first damaged record beyond max_bad_records.

  Args:
    problem: the first damaged record beyond max_bad_records.
    count: number of damaged records, including this one.
  """
  others = f', after {count - 1} other(s)' if count > 1 else ''
  return InputError(
    f'Record {problem.record} is damaged{others}: {problem.reason.rstrip(".")}. Repair or remove '
    f'it, or set max_bad_records={count} (or more) to skip damaged records.'
  )
