"""Make batches of preprocessed images in the background.

Batch k of training is a pure function of (seed, k), whatever the number of threads, worker
processes or hosts (see `vit_jax.data.order`). So there is no iterator state to save: a run resumes
at step k by asking for batch k. The order is decided for the global batch, and each host then takes
its rows. An epoch may end inside a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import itertools
import logging
import multiprocessing
from multiprocessing import resource_tracker
import os
import queue
import signal
import threading
from typing import TYPE_CHECKING
import weakref

from absl import flags
import numpy as np

from vit_jax.data.balance import BalancedOrder, read_labels
from vit_jax.data.batch import Batch, ReadOptions
from vit_jax.data.order import EvalOrder, TrainOrder
from vit_jax.data.pieces import PIECE_ROWS, Piece, Pieces, Problem, too_many_damaged
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.source import Source

if TYPE_CHECKING:
  import grain

log = logging.getLogger('vit_jax')

_PIECES_BYTES = 2**26  # largest size of all pieces that wait for their batch
_REMOTE_THREADS = 8  # each reads PIECE_ROWS images at the same time
_BATCHES_BYTES = 2**27  # largest size of all batches that wait for the consumer


def train_batches(
  source: Source,
  preprocess: Preprocess,
  options: ReadOptions,
  *,
  seed: int,
  start_step: int = 0,
  balance: float | None = None,
) -> Batches:
  """Return this process's share of an endless stream of shuffled, augmented batches.

  Args:
    source: labeled, encoded images.
    preprocess: picklable function (encoded image, random generator) -> (S, S, 3) uint8, which
      raises ValueError when the image is damaged.
    options: size of a batch, this process's share of it, threads.
    seed: seed of the order and the augmentation.
    start_step: number of the first batch.
    balance: how far to even out the classes (see `BalancedOrder`). None: take every image equally
      often.

  Returns:
    An iterator of batches. 'example' is the row in the global batch, the same in every batch.

  Raises:
    InputError: the images cannot be read, or have several labels and are to be balanced.
  """
  order = TrainOrder(len(source), seed)
  if balance is not None:
    order = BalancedOrder(read_labels(source), seed, balance)
  pieces = Pieces(source, preprocess, order, options, start_step)
  return Batches(pieces, options, itertools.repeat(options.global_rows))


def eval_batches(source: Source, preprocess: Preprocess, options: ReadOptions) -> Batches:
  """Return this process's share of one pass over `source`: each image once, in order.

  Every process gets ceil(len(source) / batch_size) batches. Rows beyond the last image are zeros
  and their mask is False.

  Args:
    source: labeled, encoded images.
    preprocess: as in `train_batches`.
    options: size of a batch, this process's share of it, threads.

  Returns:
    An iterator of batches. 'example' is the index of the image in `source`.

  Raises:
    InputError: the images cannot be read.
  """
  pieces = Pieces(source, preprocess, EvalOrder(len(source)), options)
  first_examples = range(0, len(source), options.batch_size)
  return Batches(pieces, options, (first + options.global_rows for first in first_examples))


class Batches(Iterator[Batch]):
  """An iterator of batches that are made ahead in the background.

  The background work goes on until `close` or the end of a `with` block. `next` raises an exception
  of the background work. If more than max_bad_records records are damaged, this is an InputError
  that names the last one.

  Attributes:
    bad_records: names of the damaged records in the batches delivered so far.
    warned_records: names of the records that were read with a warning. Each is logged once.
  """

  def __init__(self, pieces: Pieces, options: ReadOptions, examples: Iterable[np.ndarray]):
    """Start the background work. Use `train_batches` or `eval_batches` instead.

    Args:
      pieces: the pieces of all batches, in order.
      options: number of threads, workers and tolerated damaged records.
      examples: the field 'example' of each batch. The iterator ends when `examples` ends.
    """
    self.bad_records: set[str] = set()
    self.warned_records: set[str] = set()
    self._max_bad_records = options.max_bad_records
    self._stop = threading.Event()
    batch_bytes = pieces.rows * int(np.prod(pieces.image_shape))
    self._queue: queue.Queue = queue.Queue(max(1, min(4, _BATCHES_BYTES // batch_bytes)))
    thread = threading.Thread(
      target=_produce,
      args=(_read_ahead(pieces, options), pieces, examples, self._queue, self._stop),
      daemon=True,
      name='batches',
    )
    thread.start()
    # This runs once: in `close`, when this object is garbage-collected, or when the program ends.
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
    batch, damaged, warnings = item
    for problem in damaged:
      self._count_damaged(problem)
    for problem in warnings:
      self._count_warning(problem)
    return batch

  def _count_damaged(self, problem: Problem) -> None:
    if problem.record in self.bad_records:
      return
    self.bad_records.add(problem.record)
    if len(self.bad_records) > self._max_bad_records:
      self.close()
      raise too_many_damaged(problem, len(self.bad_records))
    log.warning('Skipped record %s: %s', problem.record, problem.reason)

  def _count_warning(self, problem: Problem) -> None:
    if problem.record not in self.warned_records:
      self.warned_records.add(problem.record)
      log.warning(
        'Record %s was read with a warning: %s. (Records with warnings so far: %d.)',
        problem.record,
        problem.reason,
        len(self.warned_records),
      )

  def close(self) -> None:
    """Stop the background work. The images that are being read are finished first."""
    self._halt()

  def __enter__(self) -> Batches:
    return self

  def __exit__(self, *exc: object) -> None:
    self.close()


def _halt(batches: queue.Queue, stop: threading.Event, thread: threading.Thread) -> None:
  stop.set()
  while not batches.empty():  # make room: the thread may be waiting to put one batch
    batches.get_nowait()
  thread.join()
  while not batches.empty():
    batches.get_nowait()
  batches.put(None)  # for a consumer that waits in another thread


def _produce(
  pieces_ahead: grain.IterDataset,
  pieces: Pieces,
  examples: Iterable[np.ndarray],
  batches: queue.Queue,
  stop: threading.Event,
) -> None:
  """Put each batch and its records' problems into a queue, and at the end None or an exception.

  This function runs in the background thread.
  """
  iterator = None
  try:
    iterator = iter(pieces_ahead)
    for example in examples:
      batch = _assemble(iterator, pieces, example, stop)
      if batch is None:
        break
      batches.put(batch)
    end = None
  except BaseException as e:  # every exception must reach the consumer
    end = e
  finally:
    if iterator is not None:
      iterator.close()
  if not stop.is_set():
    batches.put(end)


def _assemble(
  iterator: Iterator[Piece], pieces: Pieces, example: np.ndarray, stop: threading.Event
) -> tuple[Batch, list[Problem], list[Problem]] | None:
  """Return (batch, damaged records, warnings) from the next pieces, or None if `stop` is set."""
  images = np.empty((pieces.rows, *pieces.image_shape), np.uint8)
  labels = pieces.empty_labels(pieces.rows)
  mask = np.empty(pieces.rows, bool)
  damaged, warnings = [], []
  start = 0
  while start < pieces.rows:
    if stop.is_set():
      return None
    piece = next(iterator)
    rows = slice(start, start + len(piece.mask))
    images[rows], labels[rows], mask[rows] = piece.images, piece.labels, piece.mask
    damaged.extend(piece.damaged)
    warnings.extend(piece.warnings)
    start = rows.stop
  return Batch(image=images, label=labels, mask=mask, example=example), damaged, warnings


def _read_ahead(pieces: Pieces, options: ReadOptions) -> grain.IterDataset:
  """Return the pieces in order, made by threads of this process or of worker processes."""
  import grain  # slow, because it imports Orbax, and commands import this file for --help

  num_threads, num_workers = options.num_threads, options.num_workers
  if num_threads is None:
    num_threads = max(1, (os.cpu_count() or 1) // max(1, num_workers))
    if pieces.is_remote:  # most of the threads wait for their images
      num_threads = max(_REMOTE_THREADS, 4 * num_threads)
  piece_bytes = PIECE_ROWS * int(np.prod(pieces.image_shape))
  waiting = max(num_threads, min(4 * num_threads, _PIECES_BYTES // piece_bytes))
  dataset = grain.MapDataset.source(pieces).to_iter_dataset(
    grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=waiting)
  )
  if num_workers:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # Grain reads absl flags, which only app.run parses
    _start_resource_tracker()
    dataset = dataset.mp_prefetch(
      grain.MultiprocessingOptions(num_workers=num_workers), worker_init_fn=_init_worker
    )
  return dataset


def _start_resource_tracker() -> None:
  """Start Python's process that frees the memory shared with workers, without its warnings.

  If this process ends at once, the tracker cleans up, which it would report after the last line.
  """
  name = 'PYTHONWARNINGS'
  before = os.environ.get(name)
  os.environ[name] = 'ignore:resource_tracker'
  try:
    resource_tracker.ensure_running()
  finally:
    del os.environ[name]
    if before is not None:
      os.environ[name] = before


def _init_worker(index: int, count: int) -> None:
  """Make a worker process live exactly as long as the process that it works for."""
  del index, count
  # Ctrl-C and a scheduler's SIGTERM reach the whole process group. The main process still
  # finishes its step and saves, for which it needs the workers.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)

  parent = multiprocessing.parent_process()
  assert parent is not None

  def follow_parent() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=follow_parent, daemon=True).start()
