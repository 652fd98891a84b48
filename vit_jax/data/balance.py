"""Draw the images of rare classes more often, exactly and from any step on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
import functools
import itertools
import logging

import numpy as np

from vit_jax.data.order import TrainOrder, hash_numbers, shuffled
from vit_jax.data.source import Source
from vit_jax.errors import InputError

log = logging.getLogger('vit_jax')

_TABLE_IMAGES = 2048  # up to this many images of a class, their order in a turn is stored
_CHUNK = 1000  # labels that a thread reads at a time
_IN_FLIGHT = 20  # remote examples that a thread waits for at the same time
_SAY = 100_000  # labels after which the log shows how far it is


class BalancedOrder(TrainOrder):
  """An endless sequence of epochs, each with a fixed number of images of every class.

  An epoch has as many examples as there are images. A class with n images has a share of it that is
  proportional to n ** (1 - balance). The numbers of its images in an epoch are rounded, always in
  the same way. The images of a class take turns: each is drawn once before any is drawn again,
  across epochs, and in another order each time.
  """

  def __init__(self, labels: np.ndarray, seed: int, balance: float):
    """Count the images of each class.

    Args:
      labels: (n,) int, the class of each image, or -1 for an image that is never drawn.
      seed: chooses the order.
      balance: 0 for the classes as they are, 1 for all classes equally often, or between.
    """
    super().__init__(len(labels), seed)
    by_class = np.argsort(labels, kind='stable')
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    self._images = by_class[len(labels) - counts.sum() :].astype(np.int32)  # without the -1
    self._classes, self._counts = classes, counts
    self._first = np.cumsum(counts) - counts  # of each class, in _images
    self.per_epoch = _round_shares(counts ** (1.0 - balance), len(labels))
    self._ends = np.cumsum(self.per_epoch)

  def index(self, g: int) -> int:
    """Return the index of example g's image."""
    epoch, position = divmod(g, self._num_images)
    slot = shuffled(position, self._num_images, hash_numbers(self._seed, epoch, bits=32))
    c = int(np.searchsorted(self._ends, slot, 'right'))
    per_epoch, count = int(self.per_epoch[c]), int(self._counts[c])
    # Number of images of the class that are drawn before this one, in this epoch and all before.
    before = epoch * per_epoch + slot - (int(self._ends[c]) - per_epoch)
    turn, position = divmod(before, count)
    seed = hash_numbers(self._seed, int(self._classes[c]), turn, bits=32)
    if count <= _TABLE_IMAGES:
      position = int(_turn(count, seed)[position])
    else:
      position = shuffled(position, count, seed, largest_table=0)
    return int(self._images[self._first[c] + position])


@functools.lru_cache(maxsize=4096)  # at most 16 MB
def _turn(count: int, seed: int) -> np.ndarray:
  """Return a permutation of range(count): (count,) uint16. It is the same in all NumPy versions."""
  random = np.random.Philox(key=seed).random_raw(count)
  return np.argsort(random, kind='stable').astype(np.uint16)


def _round_shares(weights: np.ndarray, total: int) -> np.ndarray:
  """Return integers that are proportional to the weights and add up to `total`: (k,) int64."""
  exact = weights / weights.sum() * total
  rounded = np.floor(exact).astype(np.int64)
  most = np.argsort(rounded - exact, kind='stable')  # of the largest fractions first
  rounded[most[: total - rounded.sum()]] += 1
  return rounded


def read_labels(source: Source) -> np.ndarray:
  """Return the class of each image: (n,) int64, or -1 where there is no label.

  This reads every image once if the labels are not apart from the images, as in TFDS datasets.

  Raises:
    InputError: the images have several labels, or none has a label.
  """
  if source.multi_label:
    raise InputError(
      'config.class_balance needs one label per image, but the images have several. Leave it out.'
    )
  log.info('Reading the labels of %s images to balance the classes.', f'{len(source):,}')
  read = functools.partial(_read_chunk, source)
  with futures.ThreadPoolExecutor() as pool:
    chunks = _report(pool.map(read, range(0, len(source), _CHUNK)), len(source))
    labels = np.fromiter(itertools.chain.from_iterable(chunks), np.int64, len(source))
  if missing := int((labels < 0).sum()):
    log.warning('%s images have no label and are left out.', f'{missing:,}')
  if missing == len(source):
    raise InputError('No image has a label, so the classes cannot be balanced. Choose other data.')
  return labels


def _read_chunk(source: Source, start: int) -> list[int]:
  """Return the labels from `start` on, at most _CHUNK."""
  indices = range(start, min(start + _CHUNK, len(source)))
  if source.has_labels_apart or not source.is_remote:
    return [_label(lambda i=i: source.label(i)) for i in indices]
  labels = []
  for first in indices[::_IN_FLIGHT]:
    group = range(first, min(first + _IN_FLIGHT, indices.stop))
    waits = [source.start(i) for i in group]
    labels += [_label(lambda wait=wait: wait()['label']) for wait in waits]
  return labels


def _label(read: Callable[[], int | np.ndarray]) -> int:
  try:
    return int(read())
  except InputError:
    raise
  except ValueError:  # the record is damaged
    return -1


def _report(chunks: Iterator[list[int]], count: int) -> Iterator[list[int]]:
  """Yield the chunks, and log after every 100,000 labels how many have been read."""
  done = 0
  for chunk in chunks:
    yield chunk
    done += len(chunk)
    if done % _SAY == 0 and done < count:
      log.info('Read %s of %s labels.', f'{done:,}', f'{count:,}')
