"""Hashing and joining as an Apache Beam pipeline: few, large elements, each computed by NumPy.

The test sets are small beside the training set: their hashes become one index, which every worker
gets, and the training set's never leave the worker that computed them. What is found does not
depend on the runner, the workers or the order of anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import functools
import json
import logging
import os
import sys
import textwrap
from typing import Any, NamedTuple

from etils import epath
import numpy as np
import tqdm

from vit_jax.data.decode import decode_image
from vit_jax.data.open_source import open_source
from vit_jax.data.source import Source
from vit_jax.dedup.bands import Index, find_pairs, make_index
from vit_jax.dedup.example_ids import ExampleIds
from vit_jax.dedup.hashes import against_hashes, train_hashes
from vit_jax.errors import InputError

_CHUNK = 1024  # images of an element, fewer where there would not be
_LEAST_CHUNKS = 16


class Chunk(NamedTuple):
  """The records from start to stop of a split; the first has the number `first` of its side."""

  dataset: str
  split: str
  data_dir: str | None
  start: int
  stop: int
  first: int


class Hashed(NamedTuple):
  """What was computed of a chunk."""

  hashes: np.ndarray  # (H,) uint64
  images: np.ndarray  # (H,) int64, which image of its side each is of
  damaged: list[int]  # images that cannot be decoded
  errors: list[str]  # why the chunk could not be read, if so


class Found(NamedTuple):
  """What a run of the pipeline found.

  Attributes:
    pairs: (P, 3) int64, sorted: number of the training image, of the test image, distance.
    damaged_train, damaged_against: the images that cannot be decoded, ascending.
  """

  pairs: np.ndarray
  damaged_train: list[int]
  damaged_against: list[int]


def find_duplicates(
  train: ExampleIds,
  against: Sequence[ExampleIds],
  *,
  threshold: int,
  parts: str,
  beam_args: Sequence[str] = (),
) -> Found:
  """Finds the pairs of training and test images whose hashes are alike.

  Args:
    train: what is searched.
    against: the test sets; their images are counted on, from one set to the next.
    threshold: the largest Hamming distance of two images that are alike.
    parts: a directory, or an address such as gs://bucket/parts, that every worker can write
      and that is removed in the end.
    beam_args: Beam's own flags, such as --runner=DataflowRunner.
  Raises:
    InputError: Beam is missing or failed, or the data cannot be read.
  """
  beam = import_beam()
  make_index(np.empty(0, np.uint64), np.empty(0), threshold)  # refuses a bad threshold

  def build(pipeline):
    sides = []
    for side, records, hashes in (
      ('train', [train], train_hashes),
      ('against', against, against_hashes),
    ):
      sides.append(
        pipeline
        | f'List {side}' >> beam.Create(make_chunks(records))
        | f'Spread {side}' >> beam.Reshuffle()
        | f'Hash {side}' >> beam.Map(hash_chunk, hashes, sum(map(len, records)))
      )
    lines = [join(*sides, threshold)]
    for side, hashed in zip(('train', 'against'), sides):
      lines.append(hashed | f'Tell {side}' >> beam.FlatMap(_complaints, side))
    lines | beam.Flatten() | beam.io.WriteToText(os.path.join(parts, 'part'))

  clear(parts)  # of a run that was killed
  try:
    run(build, beam_args)
    return gather(parts)
  finally:
    clear(parts)


def import_beam() -> Any:
  """Returns the module apache_beam; raises InputError when it is not installed."""
  level = logging.root.manager.disable
  logging.disable(logging.WARNING)  # it warns of BigQuery's package missing, which nobody wants
  try:
    import apache_beam
  except ImportError as e:
    raise InputError("finding duplicates needs Apache Beam: pip install 'vit_jax[dedup]'") from e
  finally:
    logging.disable(level)
  return apache_beam


def run(build: Callable[[Any], None], beam_args: Sequence[str] = ()) -> None:
  """Runs the pipeline that build(pipeline) makes, in this process unless Beam's flags say else.

  Raises:
    InputError: the pipeline failed.
  """
  beam = import_beam()
  from apache_beam.options.pipeline_options import PipelineOptions

  # What DirectRunner comes to; by itself it would first try to download another runner.
  options = PipelineOptions(list(beam_args))
  if not any(arg.split('=')[0] == '--runner' for arg in beam_args):
    options = PipelineOptions(['--runner=FnApiRunner', *beam_args])
  try:
    with beam.Pipeline(options=options) as pipeline:
      build(pipeline)
  except Exception as e:  # each runner has its own
    raise InputError(
      'the Beam pipeline failed: ' + textwrap.shorten(str(e), 300, placeholder=' ...')
    ) from e
  finally:
    _bar.cache_clear()  # ends the bars


def make_chunks(sets: Sequence[ExampleIds]) -> list[Chunk]:
  """The elements that one side of the pipeline begins with."""
  size = max(1, min(_CHUNK, sum(map(len, sets)) // _LEAST_CHUNKS))
  chunks, first = [], 0
  for records in sets:
    for start in range(0, len(records), size):
      stop = min(start + size, len(records))
      chunks.append(
        Chunk(records.dataset, records.split, records.data_dir, start, stop, first + start)
      )
    first += len(records)
  return chunks


def hash_chunk(chunk: Chunk, hashes_of: Callable[[np.ndarray], np.ndarray], total: int) -> Hashed:
  """Reads, decodes and hashes the images of a chunk; `total` is for the progress bar."""
  hashes, images, damaged = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], []
  bar = _bar(hashes_of, total)
  try:
    source = _open(chunk.dataset, chunk.split, chunk.data_dir)
    for position in range(chunk.start, chunk.stop):
      image = chunk.first + position - chunk.start
      try:
        pixels = decode_image(source[position]['image'], apply_exif=source.apply_exif)
      except InputError:
        raise
      except ValueError:
        damaged.append(image)
        continue
      finally:
        bar.update()
      hashes.append(np.unique(hashes_of(pixels)))
      images.append(np.full(len(hashes[-1]), image))
  except InputError as e:
    return Hashed(hashes[0], images[0], [], [str(e)])
  return Hashed(np.concatenate(hashes), np.concatenate(images), damaged, [])


@functools.cache
def _open(dataset: str, split: str, data_dir: str | None) -> Source:
  """The source, opened once in a worker."""
  return open_source(dataset, split, data_dir)


@functools.cache
def _bar(hashes_of: Callable[[np.ndarray], np.ndarray], total: int) -> tqdm.tqdm:
  """A bar for each side; shown where the worker is the program that somebody started."""
  return tqdm.tqdm(
    total=total,
    unit=' images',
    desc=hashes_of.__name__.replace('_', ' '),
    disable=not sys.stderr.isatty(),
  )


def join(train: Any, against: Any, threshold: int) -> Any:
  """PCollections of Hashed -> PCollection of lines with the pairs, which `gather` reads."""
  beam = import_beam()
  index = against | beam.combiners.ToList() | 'Index' >> beam.Map(_index_all, threshold)
  return train | 'Join' >> beam.Map(_find, beam.pvalue.AsSingleton(index))


def _index_all(hashed: list[Hashed], threshold: int) -> Index:
  return make_index(
    np.concatenate([h.hashes for h in hashed]),
    np.concatenate([h.images for h in hashed]),
    threshold,
  )


def _find(hashed: Hashed, index: Index) -> str:
  return json.dumps({'pairs': find_pairs(index, hashed.hashes, hashed.images).tolist()})


def _complaints(hashed: Hashed, side: str) -> Iterator[str]:
  """Yields a line for the images that are damaged, and for what stopped the reading."""
  if hashed.damaged:
    yield json.dumps({side: hashed.damaged})
  for error in hashed.errors:
    yield json.dumps({'errors': [error]})


def gather(parts: str) -> Found:
  """Reads what the workers wrote to a directory, in whatever order.

  Raises:
    InputError: a worker could not read the data.
  """
  found = {'pairs': [], 'train': [], 'against': [], 'errors': []}
  for path in epath.Path(parts).glob('part*'):
    for line in path.read_text().splitlines():
      for kind, values in json.loads(line).items():
        found[kind] += values
  if found['errors']:
    raise InputError(min(found['errors']))
  pairs = np.array(sorted(found['pairs']), np.int64).reshape(-1, 3)
  return Found(pairs, sorted(found['train']), sorted(found['against']))


def clear(parts: str) -> None:
  """Removes the directory if it is there."""
  if (directory := epath.Path(parts)).exists():
    directory.rmtree()
