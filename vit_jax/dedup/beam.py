"""Hash and join images in an Apache Beam pipeline that has few, large elements.

The test sets are small compared with the training set. Their hashes become one index that every
worker receives, while the training set's hashes never leave the worker that computed them. The
result does not depend on the runner, the number of workers or the order in which they finish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import functools
import json
import logging
import os
import pathlib
import sys
import textwrap
from typing import Any, NamedTuple

from etils import epath
import numpy as np
import tqdm

from vit_jax.data.decode import decode_image
from vit_jax.data.decode_warnings import log_warnings
from vit_jax.data.open_source import open_source
from vit_jax.data.source import Source
from vit_jax.dedup.bands import Index, find_pairs, make_index
from vit_jax.dedup.example_ids import ExampleIds
from vit_jax.dedup.hashes import against_hashes, train_hashes
from vit_jax.errors import InputError, machine_failure
from vit_jax.files import is_remote
from vit_jax.parallel.lock import Lock

HashImage = Callable[[np.ndarray], np.ndarray]  # image -> hashes, (N,) uint64
PCollection = Any  # apache_beam.PCollection; Beam is an optional dependency
Pipeline = Any  # apache_beam.Pipeline

_CHUNK = 1024  # images in an element of the pipeline; fewer if that would make too few elements
_LEAST_CHUNKS = 16


class Chunk(NamedTuple):
  """The examples from start to stop of a split; `first` is the first one's number on its side."""

  dataset: str
  split: str
  data_dir: str | None
  start: int
  stop: int
  first: int


class Hashed(NamedTuple):
  """The hashes of a chunk."""

  hashes: np.ndarray  # (H,) uint64
  images: np.ndarray  # (H,) int64, the number of the image that each hash belongs to
  damaged: list[int]  # images that cannot be decoded
  errors: list[str]  # why the chunk cannot be read; empty if it can be read


class Matches(NamedTuple):
  """The pairs that a run of the pipeline found.

  Attributes:
    pairs: (P, 3) int64, sorted: number of the training image, number of the test image, distance.
    damaged_train: training images that cannot be decoded, ascending.
    damaged_against: test images that cannot be decoded, ascending.
  """

  pairs: np.ndarray
  damaged_train: list[int]
  damaged_against: list[int]


def find_matches(
  train: ExampleIds,
  against: Sequence[ExampleIds],
  *,
  threshold: int,
  parts: str,
  beam_args: Sequence[str] = (),
) -> Matches:
  """Find the pairs of a training and a test image whose hashes are within a distance.

  Args:
    train: the training set to search.
    against: the test sets. Their images are numbered consecutively, across all sets.
    threshold: the largest Hamming distance between duplicates.
    parts: directory, or an address such as gs://bucket/parts, that every worker can write to. It
      is removed at the end. While it is used, the file `parts`.lock lies beside it.
    beam_args: Beam's own flags, such as --runner=DataflowRunner.

  Raises:
    InputError: Beam is missing or failed, the data cannot be read, or another run uses `parts`.
  """
  beam = import_beam()
  make_index(np.empty(0, np.uint64), np.empty(0), threshold)  # refuses a bad threshold early

  def build(pipeline: Pipeline) -> None:
    def hash_side(name: str, sets: Sequence[ExampleIds], hash_image: HashImage) -> PCollection:
      return (
        pipeline
        | f'List {name}' >> beam.Create(make_chunks(sets))
        | f'Spread {name}' >> beam.Reshuffle()
        | f'Hash {name}' >> beam.Map(hash_chunk, hash_image, sum(map(len, sets)))
      )

    train_hashed = hash_side('train', [train], train_hashes)
    against_hashed = hash_side('against', against, against_hashes)
    lines = [
      join(train_hashed, against_hashed, threshold),
      train_hashed | 'Problems of train' >> beam.FlatMap(_problems, 'train'),
      against_hashed | 'Problems of against' >> beam.FlatMap(_problems, 'against'),
    ]
    _ = lines | beam.Flatten() | beam.io.WriteToText(os.path.join(parts, 'part'))

  lock = f'{parts}.lock'
  advice = 'Wait for it to end, or choose another --out.'
  with Lock(epath.Path(lock) if is_remote(lock) else pathlib.Path(lock), parts, advice):
    remove(parts)  # a run that was killed may have left it
    try:
      run_pipeline(build, beam_args)
      return gather(parts)
    finally:
      remove(parts)


def import_beam() -> Any:
  """Return the module apache_beam; raise InputError if it is not installed."""
  level = logging.root.manager.disable
  logging.disable(logging.WARNING)  # Beam warns if the package for BigQuery is missing
  try:
    import apache_beam
  except ImportError as e:
    raise InputError(
      "Finding duplicates needs Apache Beam. Install it with: pip install 'vit_jax[dedup]'"
    ) from e
  finally:
    logging.disable(level)
  return apache_beam


def run_pipeline(build: Callable[[Pipeline], None], beam_args: Sequence[str] = ()) -> None:
  """Run the pipeline that build(pipeline) makes, in this process unless beam_args name a runner.

  Raises:
    InputError: the pipeline failed.
  """
  beam = import_beam()
  from apache_beam.options.pipeline_options import PipelineOptions

  # DirectRunner, the default, would first try to download another runner and end up with this one.
  options = PipelineOptions(list(beam_args))
  if not any(arg.split('=')[0] == '--runner' for arg in beam_args):
    options = PipelineOptions(['--runner=FnApiRunner', *beam_args])
  pipeline = beam.Pipeline(options=options)
  build(pipeline)
  try:
    pipeline.run().wait_until_finish()
  except Exception as e:  # each runner raises errors of its own
    if machine_failure(e):
      raise
    cause = textwrap.shorten(str(e), 300, placeholder=' ...')
    raise InputError(f'The Beam pipeline failed: {cause}') from e
  finally:
    _bar.cache_clear()  # closes the progress bars


def make_chunks(sets: Sequence[ExampleIds]) -> list[Chunk]:
  """Return the elements that one side of the pipeline starts with."""
  size = max(1, min(_CHUNK, sum(map(len, sets)) // _LEAST_CHUNKS))
  chunks, first = [], 0
  for examples in sets:
    name = examples.dataset, examples.split, examples.data_dir
    for start in range(0, len(examples), size):
      stop = min(start + size, len(examples))
      chunks.append(Chunk(*name, start, stop, first + start))
    first += len(examples)
  return chunks


def hash_chunk(chunk: Chunk, hash_image: HashImage, total: int) -> Hashed:
  """Read, decode and hash the images of a chunk.

  Args:
    chunk: the examples to read.
    hash_image: train_hashes or against_hashes.
    total: number of images on this side, for the progress bar.
  """
  hashes, images, damaged = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], []
  bar = _bar(hash_image, total)
  try:
    source = _open(chunk.dataset, chunk.split, chunk.data_dir)
    for position in range(chunk.start, chunk.stop):
      image = chunk.first + position - chunk.start
      try:
        with log_warnings(source.location(position)):
          pixels = decode_image(source[position]['image'], apply_exif=source.apply_exif)
      except InputError:
        raise
      except (ValueError, MemoryError):
        damaged.append(image)
        continue
      finally:
        bar.update()
      hashes.append(np.unique(hash_image(pixels)))
      images.append(np.full(len(hashes[-1]), image))
  except InputError as e:
    return Hashed(hashes[0], images[0], [], [str(e)])
  return Hashed(np.concatenate(hashes), np.concatenate(images), damaged, [])


@functools.cache
def _open(dataset: str, split: str, data_dir: str | None) -> Source:
  """Return the source, which each worker opens only once."""
  return open_source(dataset, split, data_dir)


@functools.cache
def _bar(hash_image: HashImage, total: int) -> tqdm.tqdm:
  """Return the progress bar of a side. It shows only if the worker has a terminal."""
  return tqdm.tqdm(
    total=total,
    unit=' images',
    desc=hash_image.__name__.replace('_', ' '),
    disable=not sys.stderr.isatty(),
  )


def join(train: PCollection, against: PCollection, threshold: int) -> PCollection:
  """Join two PCollections of Hashed; return a PCollection of lines that `gather` reads."""
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


def _problems(hashed: Hashed, side: str) -> Iterator[str]:
  """Yield a line with the images that are damaged, and a line for each error."""
  if hashed.damaged:
    yield json.dumps({side: hashed.damaged})
  for error in hashed.errors:
    yield json.dumps({'errors': [error]})


def gather(parts: str) -> Matches:
  """Read the lines that the workers wrote to a directory, in any order.

  Raises:
    InputError: a worker could not read the data.
  """
  values = {'pairs': [], 'train': [], 'against': [], 'errors': []}
  for path in epath.Path(parts).glob('part*'):
    for line in path.read_text().splitlines():
      for kind, more in json.loads(line).items():
        values[kind] += more
  if values['errors']:
    raise InputError(min(values['errors']))
  pairs = np.array(sorted(values['pairs']), np.int64).reshape(-1, 3)
  return Matches(pairs, sorted(values['train']), sorted(values['against']))


def remove(parts: str) -> None:
  """Remove the directory if it exists."""
  if (directory := epath.Path(parts)).exists():
    directory.rmtree()
