"""Batches of preprocessed images, made in the background.

Batch k of training is a pure function of (seed, k), whatever the number of threads, worker
processes or hosts. So there is no iterator state to save: a run resumes at step k by asking for
batch k. Row r of global batch k is example g = k * batch_size + r; example g belongs to epoch
g // n, is record permutation(seed, epoch)[g % n], and its augmentation draws from a generator
keyed by (seed, g). Only then do hosts take their rows. Epochs need not end where batches end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import functools
import hashlib
import logging
import multiprocessing
import os
import queue
import signal
import threading
import weakref

from absl import flags
import grain
from grain.experimental import index_shuffle
import numpy as np

from vit_jax.data.source import Source
from vit_jax.errors import InputError

log = logging.getLogger('vit_jax')

Batch = dict[str, np.ndarray]
Preprocess = Callable[[bytes, np.random.Generator], np.ndarray]

_PIECE_ROWS = 16  # rows that one thread makes at a time; Grain costs about 0.1 ms per piece
_PIECE_BYTES = 2**26  # of pieces waiting for their batch
_BATCH_BYTES = 2**27  # of batches waiting for the consumer
# Grain shuffles without a table in 6 us, but by trial among 2**16 numbers: 1 ms among 50 records.
_TABLE_RECORDS = 2**16


def train_batches(
  source: Source,
  preprocess: Preprocess,
  *,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int | None = None,
  num_workers: int = 0,
  max_bad_records: int = 0,
) -> Batches:
  """Returns this process's share of an endless stream of shuffled, augmented batches.

  Args:
    source: labelled, encoded images.
    preprocess: picklable; (encoded image, random generator) -> (S, S, 3) uint8; raises
      ValueError when the image is damaged.
    batch_size: over all processes. This one gets rows [p * b, (p + 1) * b) of each batch, with
      p = process_index and b = batch_size // process_count.
    seed: of order and augmentation.
    start_step: number of the first batch.
    num_threads: that read and preprocess, in each worker if there are any; None means one per
      CPU, shared among the workers.
    num_workers: processes to use instead of this one.
    max_bad_records: how many different records may be damaged before it is an error. A damaged
      one leaves zeros and a False mask in its row.

  Raises:
    InputError: batch_size is not divisible by process_count, or the images cannot be read.
  """
  plan = _TrainPlan(len(source), seed)
  return Batches(
    _Pieces(
      source,
      preprocess,
      plan,
      batch_size,
      process_index,
      process_count,
      start_step,
      _image_shape(source, preprocess, max_bad_records),
    ),
    num_batches=None,
    num_threads=num_threads,
    num_workers=num_workers,
    max_bad_records=max_bad_records,
  )


def eval_batches(
  source: Source,
  preprocess: Preprocess,
  *,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int | None = None,
  num_workers: int = 0,
  max_bad_records: int = 0,
) -> Batches:
  """Returns this process's share of one pass over `source`: each example once, in order.

  Every process gets ceil(len(source) / batch_size) batches. Rows beyond the last example are
  zeros and their mask is False. Arguments and errors are those of `train_batches`.
  """
  return Batches(
    _Pieces(
      source,
      preprocess,
      _EvalPlan(len(source)),
      batch_size,
      process_index,
      process_count,
      0,
      _image_shape(source, preprocess, max_bad_records),
    ),
    num_batches=-(-len(source) // batch_size),
    num_threads=num_threads,
    num_workers=num_workers,
    max_bad_records=max_bad_records,
  )


class Batches(Iterator[Batch]):
  """An iterator of {'image': (b, S, S, 3) uint8, 'label': (b,) int32, 'mask': (b,) bool}.

  Where images have several labels, 'label' is multi-hot: (b, K) uint8.

  A few batches are made ahead in the background until `close` (or the end of a `with` block).
  What goes wrong there is raised by `next`: an InputError naming the record when more than
  max_bad_records are damaged.

  Attributes:
    bad_records: names of the damaged records in the batches delivered so far.
  """

  def __init__(
    self,
    pieces: _Pieces,
    *,
    num_batches: int | None,
    num_threads: int | None,
    num_workers: int,
    max_bad_records: int,
  ):
    """Starts the background work; made by `train_batches` and `eval_batches`."""
    self.bad_records: set[str] = set()
    self._max_bad_records = max_bad_records
    self._stop = threading.Event()
    batch_bytes = pieces.rows * int(np.prod(pieces.image_shape))
    self._queue = queue.Queue(max(1, min(4, _BATCH_BYTES // batch_bytes)))
    thread = threading.Thread(
      target=_produce,
      daemon=True,
      name='batches',
      args=(
        _read_ahead(pieces, num_threads, num_workers),
        pieces,
        num_batches,
        self._queue,
        self._stop,
      ),
    )
    thread.start()
    # Runs once: by close, when nobody holds this object any more, or when the program ends.
    self._halt = weakref.finalize(self, _halt, self._queue, self._stop, thread)

  def __next__(self) -> Batch:
    if self._stop.is_set():
      raise StopIteration
    item = self._queue.get()
    if item is None:
      self.close()
      raise StopIteration
    if isinstance(item, BaseException):
      self.close()
      raise item
    batch, damaged = item
    for name, reason in damaged:
      self._count_damaged(name, reason)
    return batch

  def _count_damaged(self, name: str, reason: str) -> None:
    if name in self.bad_records:
      return
    self.bad_records.add(name)
    if len(self.bad_records) > self._max_bad_records:
      self.close()
      count = f'{len(self.bad_records)} damaged records, ' if self._max_bad_records else ''
      raise InputError(
        f'{count}record {name}: {reason}; repair or remove it, or set '
        f'max_bad_records={len(self.bad_records)} (or more) to skip such records'
      )
    log.warning('skipped record %s: %s', name, reason)

  def close(self) -> None:
    """Stops the background work; what is being read at the moment is finished first."""
    self._halt()

  def __enter__(self) -> Batches:
    return self

  def __exit__(self, *exc) -> None:
    self.close()


def _halt(batches: queue.Queue, stop: threading.Event, thread: threading.Thread) -> None:
  stop.set()
  while not batches.empty():  # the thread may be waiting for room, for one batch at most
    batches.get_nowait()
  thread.join()
  while not batches.empty():
    batches.get_nowait()
  batches.put(None)  # for a consumer that waits in another thread


def _produce(
  dataset: grain.IterDataset,
  pieces: _Pieces,
  num_batches: int | None,
  batches: queue.Queue,
  stop: threading.Event,
) -> None:
  """Thread: puts together the pieces of each batch; puts None, or an exception, at the end."""
  iterator = None
  try:
    iterator = iter(dataset)
    made = 0
    while made != num_batches and not stop.is_set():
      batch = _assemble(iterator, pieces, stop)
      if batch is None:
        break
      batches.put(batch)
      made += 1
    end = None
  except BaseException as e:  # whatever it is, the consumer must hear of it
    end = e
  finally:
    if iterator is not None:
      iterator.close()
  if not stop.is_set():
    batches.put(end)


def _assemble(iterator, pieces: _Pieces, stop: threading.Event):
  """Returns (batch, damaged records) from the next pieces; None when asked to stop."""
  batch = {
    'image': np.empty((pieces.rows, *pieces.image_shape), np.uint8),
    'label': pieces.empty_labels(pieces.rows),
    'mask': np.empty(pieces.rows, bool),
  }
  damaged = []
  row = 0
  while row < pieces.rows:
    if stop.is_set():
      return None
    piece, piece_damaged = next(iterator)
    for key, value in piece.items():
      batch[key][row : row + len(value)] = value
    damaged.extend(piece_damaged)
    row += len(piece['label'])
  return batch, damaged


def _read_ahead(pieces: _Pieces, num_threads: int | None, num_workers: int) -> grain.IterDataset:
  """Returns the pieces in order, made by threads of this process or of worker processes."""
  if num_threads is None:
    num_threads = max(1, (os.cpu_count() or 1) // max(1, num_workers))
  piece_bytes = _PIECE_ROWS * int(np.prod(pieces.image_shape))
  waiting = max(num_threads, min(4 * num_threads, _PIECE_BYTES // piece_bytes))
  dataset = grain.MapDataset.source(pieces).to_iter_dataset(
    grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=waiting)
  )
  if num_workers:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # Grain reads flags of its own; outside app.run nobody parsed
    dataset = dataset.mp_prefetch(
      grain.MultiprocessingOptions(num_workers=num_workers), worker_init_fn=_init_worker
    )
  return dataset


def _init_worker(index: int, count: int) -> None:
  """Makes a worker process live exactly as long as the process that feeds on it."""
  del index, count
  # Ctrl-C and a scheduler's SIGTERM reach the whole process group; the main process still
  # finishes its step and saves, for which it needs the workers.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)

  def follow_parent():
    multiprocessing.parent_process().join()
    os._exit(1)

  threading.Thread(target=follow_parent, daemon=True).start()


class _Pieces:
  """Random access to pieces of this process's batches: a Grain data source."""

  def __init__(
    self,
    source: Source,
    preprocess: Preprocess,
    plan: _TrainPlan | _EvalPlan,
    batch_size: int,
    process_index: int,
    process_count: int,
    start_step: int,
    image_shape: tuple[int, ...],
  ):
    if batch_size <= 0 or batch_size % process_count:
      raise InputError(
        f'batch_size={batch_size} is not divisible by the {process_count} processes that share it'
      )
    self.rows = batch_size // process_count
    self.image_shape = image_shape
    self._source = source
    self._preprocess = preprocess
    self._plan = plan
    self._batch_size = batch_size
    self._offset = start_step * batch_size + process_index * self.rows
    self._per_batch = -(-self.rows // _PIECE_ROWS)

  def __len__(self) -> int:
    return 2**60  # pieces without end; the reader of an evaluation counts batches

  def __getitem__(self, index: int) -> tuple[Batch, list[tuple[str, str]]]:
    """Returns a piece of a batch and the (name, reason) of the damaged records in it."""
    step, piece = divmod(index, self._per_batch)
    first = piece * _PIECE_ROWS
    size = min(_PIECE_ROWS, self.rows - first)
    images = np.empty((size, *self.image_shape), np.uint8)
    labels = self.empty_labels(size)
    mask = np.empty(size, bool)
    damaged = []
    for row in range(size):
      example = self._offset + step * self._batch_size + first + row
      images[row], labels[row], mask[row] = self._example(example, damaged)
    return {'image': images, 'label': labels, 'mask': mask}, damaged

  def empty_labels(self, size: int) -> np.ndarray:
    """Returns room for the labels of so many images."""
    if self._source.multi_label:
      # Not indices, padded: how many an image has at most is known only after reading all. A
      # byte for each of 18,000 classes adds an eighth to an image's 150,000.
      return np.empty((size, self._source.num_classes), np.uint8)
    return np.empty(size, np.int32)

  def _example(
    self, example: int, damaged: list[tuple[str, str]]
  ) -> tuple[np.ndarray, int | np.ndarray, bool]:
    """Returns (image, label, whether it is one); notes in `damaged` if its record is."""
    record = self._plan.record(example)
    if record is not None:
      try:
        read = self._source[record]
        return self._preprocess(read['image'], self._plan.rng(example)), read['label'], True
      except InputError:
        raise
      except ValueError as e:
        damaged.append((self._source.record_name(record), str(e)))
    return np.uint8(0), 0, False


class _TrainPlan:
  """Which record the g-th example of training is, and the randomness of its augmentation."""

  def __init__(self, num_records: int, seed: int):
    self._num_records = num_records
    self._seed = seed
    self._key = _hash(seed, bits=64)

  def record(self, example: int) -> int:
    epoch, position = divmod(example, self._num_records)
    seed = _hash(self._seed, epoch, bits=32)
    if self._num_records <= _TABLE_RECORDS:
      return int(_permutation(self._num_records, seed)[position])
    return index_shuffle(position, max_index=self._num_records - 1, seed=seed, rounds=4)

  def rng(self, example: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[self._key, example]))


class _EvalPlan:
  """Each record once, in order, then nothing."""

  def __init__(self, num_records: int):
    self._num_records = num_records

  def record(self, example: int) -> int | None:
    return example if example < self._num_records else None

  def rng(self, example: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[0, example]))


@functools.lru_cache(maxsize=4)
def _permutation(size: int, seed: int) -> np.ndarray:
  # RandomState, unlike Generator, promises the same permutation in every NumPy version.
  return np.random.RandomState(seed).permutation(size)


@functools.lru_cache(maxsize=64)
def _hash(*numbers: int, bits: int) -> int:
  """Returns a number that has nothing in common with that of neighbouring arguments."""
  digest = hashlib.blake2b(repr(numbers).encode(), digest_size=bits // 8).digest()
  return int.from_bytes(digest, 'little')


def _image_shape(source: Source, preprocess: Preprocess, max_bad_records: int) -> tuple[int, ...]:
  """Returns the shape of a preprocessed image, from the first record that is not damaged."""
  for record in range(min(len(source), max_bad_records + 1)):
    try:
      image = preprocess(source[record]['image'], np.random.default_rng(0))
      return np.shape(image)
    except InputError:
      raise
    except ValueError as e:
      error = e
  raise InputError(
    f'record {source.record_name(record)}: {error}; repair or remove it, or set '
    f'max_bad_records={record + 1} (or more) to skip such records'
  )
