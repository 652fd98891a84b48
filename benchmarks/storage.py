"""Train from a bucket that answers late, and compare with the same data on a disk.

    python -m benchmarks.storage
    python -m benchmarks.storage --delay=0.1 --protocol=http

A server on this machine waits 50 ms before each answer, as a bucket in another zone does. It serves
a TFDS dataset of 500 x 375 JPEGs as TFRecord. The training pipeline makes inception crops at 224 px
from it, in batches of 64. A row of the table is one place of the data:

    disk           the files themselves
    no delay       the server without its delay: what its bandwidth allows
    delay          the server with its delay

The rows take turns, and the figures are medians over the rounds. The server and the pipeline share
the cores, and "disk" has them alone. So beside the rate there is what an image costs the pipeline's
process, and the rates for a device that takes as many images as a rate says.
"""

import argparse
import contextlib
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any
import urllib.request

import numpy as np

from benchmarks.input import BATCH, SIZE, make_jpegs, waiting_share

SHARDS, RECORDS = 8, 128  # records in each shard


def write_dataset(data_dir: pathlib.Path) -> None:
  """Write a TFDS dataset 'photos' as TFRecord, without TensorFlow and without checksums."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.proto import tf_example_pb2

  jpegs = make_jpegs(64)
  directory = data_dir / 'photos' / '1.0.0'
  directory.mkdir(parents=True)
  features = tfds.features.FeaturesDict(
    {
      'image': tfds.features.Image(encoding_format='jpeg'),
      'label': tfds.features.ClassLabel(num_classes=10),
    }
  )
  (directory / 'features.json').write_text(json.dumps(features.to_json()))
  info: dict[str, Any] = dict(
    name='photos', version='1.0.0', fileFormat='tfrecord', moduleName='photos'
  )
  info['supervisedKeys'] = {'tuple': {'items': [{'featureKey': 'image'}, {'featureKey': 'label'}]}}
  info['splits'] = [
    dict(
      name='train',
      numBytes='1',
      shardLengths=[str(RECORDS)] * SHARDS,
      filepathTemplate='{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
    )
  ]
  (directory / 'dataset_info.json').write_text(json.dumps(info))
  for shard in range(SHARDS):
    name = f'photos-train.tfrecord-{shard:05d}-of-{SHARDS:05d}'
    with open(directory / name, 'wb') as f:
      for record in range(RECORDS):
        example = tf_example_pb2.Example()
        example.features.feature['image'].bytes_list.value.append(
          jpegs[(shard * RECORDS + record) % len(jpegs)]
        )
        example.features.feature['label'].int64_list.value.append(record % 10)
        payload = example.SerializeToString()
        f.write(len(payload).to_bytes(8, 'little') + bytes(4) + payload + bytes(4))


@contextlib.contextmanager
def server(directory: pathlib.Path, delay: float):
  """Serve a directory in another process. Yield the port."""
  process = subprocess.Popen(
    [sys.executable, '-m', 'benchmarks.slow_server', directory, f'--delay={delay}'],
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    assert process.stdout is not None
    yield int(process.stdout.readline())
  finally:
    process.kill()
    process.wait()


def stats(port: int | None) -> dict[str, float]:
  """Return what a server has counted since the last time."""
  if port is None:
    return {}
  with urllib.request.urlopen(f'http://127.0.0.1:{port}/stats') as answer:
    return json.load(answer)


class Row:
  """A place of the data, and the pipeline that reads it."""

  def __init__(self, data_dir: str, port: int | None, num_threads: int | None):
    from vit_jax.data.batch import ReadOptions
    from vit_jax.data.open_source import open_source
    from vit_jax.data.pipeline import train_batches
    from vit_jax.data.preprocess import make_train_preprocess

    self.port = port
    self._use_server()
    begin = time.perf_counter()
    self._open = lambda: train_batches(
      open_source('photos:1.0.0', 'train', data_dir),
      make_train_preprocess('inception', SIZE),
      ReadOptions(BATCH, num_threads=num_threads),
      seed=0,
    )
    with self._open() as batches:
      self.first = next(batches)['image'].astype(np.int64).sum()
    self.start = time.perf_counter() - begin
    self.rates: list[float] = []
    self.costs: list[float] = []
    self.counted: list[dict[str, float]] = []

  def _use_server(self) -> None:
    """Let gs:// mean the bucket of this row. gcsfs looks at the variable for each request."""
    if self.port is not None:
      os.environ['STORAGE_EMULATOR_HOST'] = f'http://127.0.0.1:{self.port}'

  def measure(self, images: int) -> None:
    """Run the pipeline for some images, after those that it reads ahead."""
    self._use_server()
    with self._open() as batches:
      for _ in range(8):
        next(batches)
      stats(self.port)
      cpu, begin = time.process_time(), time.perf_counter()
      for _ in range(images // BATCH):
        next(batches)
      self.rates.append(images / (time.perf_counter() - begin))
      self.costs.append((time.process_time() - cpu) / images)
      self.counted.append(stats(self.port))

  def waiting(self, rate: float) -> float:
    """Return the share of time that a device waits which takes `rate` images/s."""
    self._use_server()
    with self._open() as batches:
      for _ in range(4):
        next(batches)
      return waiting_share(batches, rate)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--delay', type=float, default=0.05, help='seconds before every answer')
  parser.add_argument('--protocol', choices=['gs', 'http'], default='gs')
  parser.add_argument('--images', type=int, default=1920, help='per round, a multiple of 64')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--num_threads', type=int, help='as config.num_threads')
  args = parser.parse_args()

  with contextlib.ExitStack() as stack:
    root = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    os.environ['XDG_CACHE_HOME'] = str(root / 'cache')
    write_dataset(root / 'data')
    rows = {'disk': Row(str(root / 'data'), None, args.num_threads)}
    for name, delay in (('no delay', 0.0), (f'{1e3 * args.delay:.0f} ms', args.delay)):
      port = stack.enter_context(server(root / 'data', delay))
      rows[name] = Row(_address(args.protocol, port), port, args.num_threads)
    assert len({row.first for row in rows.values()}) == 1, 'not the same images'
    for _ in range(args.rounds):
      for row in rows.values():
        row.measure(args.images)
    _print(rows, args)
    for share in (0.5, 0.7, 0.9):
      rate = share * statistics.median(rows['disk'].rates)
      waits = ', '.join(f'{row.waiting(rate):.1%} ({name})' for name, row in rows.items())
      print(f'a device that takes {rate:.0f} images/s, {share:.0%} of disk, waits {waits}')
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f'peak memory of this process: {peak:.0f} MB')


def _address(protocol: str, port: int) -> str:
  """Return the data_dir at a server."""
  if protocol == 'http':
    return f'http://127.0.0.1:{port}'
  return f'gs://bucket-{port}'


def _print(rows: dict[str, Row], args: argparse.Namespace) -> None:
  print(f'{args.protocol}, {args.rounds} rounds of {args.images} images, {os.cpu_count()} cores')
  columns = ('images/s', 'of disk', 'ms CPU/image', 'in flight', 'most', 'MB/s', 'start s')
  print(f'{"":10}' + ''.join(f'{column:>14}' for column in columns))
  disk = statistics.median(rows['disk'].rates)
  for name, row in rows.items():
    rate, cost = statistics.median(row.rates), 1e3 * statistics.median(row.costs)
    line = f'{name:10}{rate:14.0f}{rate / disk:14.2f}{cost:14.2f}'
    if row.port is not None:
      mean = statistics.median(counted['mean_in_flight'] for counted in row.counted)
      most = max(counted['most_in_flight'] for counted in row.counted)
      speed = statistics.median(
        c['megabytes'] * r / args.images for c, r in zip(row.counted, row.rates)
      )
      line += f'{mean:14.0f}{most:14.0f}{speed:14.0f}'
    else:
      line += ' ' * 3 * 14
    print(f'{line}{row.start:14.1f}')


if __name__ == '__main__':
  main()
