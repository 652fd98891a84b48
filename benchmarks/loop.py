"""Compare the training loop with its step: how much do the loop and the input cost?

    python -m benchmarks.loop --model=ViT-B/16 --batch_size=512 --steps=80

The same model is trained in three ways, which take turns, round by round:

  step              the compiled step alone, again and again on one batch
  loop, one batch   vit_jax.training.loop on that batch: logging, checks and dispatch
  loop, JPEGs       vit_jax.training.loop on a folder of 500 x 375 JPEGs, with its input pipeline

A run logs four times. Its first part, which compiles, does not count. The figures are medians over
all other parts of all rounds. The data wait is the fraction of that time in which the step waited
for its batch. Saving and evaluation are off. MFU needs a device whose peak is published.
"""

import argparse
from collections.abc import Iterator
import contextlib
import json
import pathlib
import statistics
import tempfile
import time
from unittest import mock

from etils import epath
import jax
from ml_collections import ConfigDict

from benchmarks.input import make_jpegs
from vit_jax.config import default_config
from vit_jax.config.run import METRICS
from vit_jax.models.flops import train_flops
from vit_jax.parallel.allocator import keep_freed_memory
from vit_jax.parallel.compile_cache import use_compile_cache
from vit_jax.parallel.devices import find_device
from vit_jax.parallel.make_partitioner import make_partitioner
from vit_jax.training.inputs import Inputs
from vit_jax.training.loop import train
from vit_jax.training.setup import make_training

PARTS = 4  # of a run
Speeds = list[tuple[float, float]]  # (images per second, fraction of time that waited for data)


def write_folder(root: pathlib.Path, classes: int, images: int) -> None:
  for i, jpeg in enumerate(make_jpegs(images)):
    path = root / 'train' / f'class{i % classes:04}' / f'{i}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg)


def make_config(args: argparse.Namespace, folder: pathlib.Path) -> ConfigDict:
  c = default_config()
  c.dataset, c.eval_split, c.preset = str(folder), 'none', 'inception'
  c.model, c.image_size, c.dtype = args.model, args.image_size, args.dtype
  c.batch_size, c.parallel, c.remat, c.scan = args.batch_size, args.parallel, args.remat, args.scan
  c.num_threads, c.num_workers, c.dropout = args.num_threads, args.num_workers, args.dropout
  c.optimizer, c.lr, c.warmup_steps, c.clip_norm = 'adam', 1e-3, 1, 1.0
  c.total_steps, c.log_every, c.save_every = args.steps, args.steps // PARTS, 0
  return c


def time_step(c: ConfigDict, batch: dict) -> Speeds:
  """Time the compiled step of a config on one batch."""
  use_compile_cache(c.compile_cache)
  partitioner = make_partitioner(c.parallel, c.batch_size, c.accumulate, c.mesh, c.dtype)
  training = make_training(c, Inputs(c).num_classes, c.total_steps)
  step, state = partitioner.train_step(training.step), partitioner.init(training.init)
  speeds = []
  for _ in range(PARTS):
    start, pending = time.perf_counter(), []
    for _ in range(c.log_every):
      state, metrics = step(state, batch)
      pending.append(metrics)
      if len(pending) > partitioner.max_in_flight:
        jax.block_until_ready(pending.pop(0))
    jax.block_until_ready(state)
    speeds.append((c.log_every * c.batch_size / (time.perf_counter() - start), 0.0))
  return speeds[1:]


class RepeatedBatch:
  """Batches of a run that are all the same."""

  def __init__(self, batch: dict):
    self.bad_records: set[str] = set()
    self._batch = batch

  def __next__(self) -> dict:
    return self._batch


def time_loop(c: ConfigDict, batch: dict | None = None) -> Speeds:
  """Time the loop on one batch that is given again and again, or on the config's dataset."""

  @contextlib.contextmanager
  def repeat(inputs: Inputs, start_step: int) -> Iterator[RepeatedBatch]:
    yield RepeatedBatch(batch)

  replaced = (
    mock.patch.object(Inputs, 'train_batches', repeat) if batch else contextlib.nullcontext()
  )
  with tempfile.TemporaryDirectory() as workdir, replaced:
    train(c, epath.Path(workdir))
    lines = [json.loads(line) for line in (pathlib.Path(workdir) / METRICS).open()]
  speeds = []
  for line in lines:
    if rate := line.get('train/images_per_second'):
      seconds = c.log_every * c.batch_size / rate
      speeds.append((rate, line['train/seconds_waiting_for_data'] / seconds))
  return speeds[1:]


def first_batch(c: ConfigDict) -> dict:
  with Inputs(c).train_batches(0) as batches:
    return next(batches)


def report(c: ConfigDict, speeds: dict[str, Speeds], flops: int) -> None:
  device = jax.devices()[0].device_kind
  published = find_device(device)
  print(
    f'{c.model} at {c.image_size} px, batch {c.batch_size}, {c.dtype}, remat={c.remat}, '
    f'dropout {c.dropout}, {jax.device_count()} x {device}, jax {jax.__version__}'
  )
  print(f'{"":17}{"images/s":>10}{"of the step":>13}{"data wait":>11}{"MFU":>6}')
  fastest = statistics.median(rate for rate, _ in speeds['step'])
  for way, parts in speeds.items():
    rate = statistics.median(rate for rate, _ in parts)
    wait = statistics.median(wait for _, wait in parts)
    mfu = f'{rate * flops / jax.device_count() / published.flops:.0%}' if published else '-'
    print(f'{way:17}{rate:10.1f}{rate / fastest:13.3f}{wait:11.1%}{mfu:>6}')


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--model', default='ViT-B/16')
  parser.add_argument('--batch_size', type=int, default=512)
  parser.add_argument('--image_size', type=int, default=224)
  parser.add_argument('--dtype', default='bfloat16')
  parser.add_argument('--dropout', type=float, default=0.0)
  parser.add_argument('--parallel', default='pmap')
  parser.add_argument('--remat', default='none')
  parser.add_argument('--scan', action='store_true')
  parser.add_argument('--num_threads', type=int, default=16, help='threads that decode images')
  parser.add_argument('--num_workers', type=int, default=0, help='processes that decode images')
  parser.add_argument('--steps', type=int, default=80, help=f'of a run, a multiple of {PARTS}')
  parser.add_argument('--images', type=int, default=1024, help='files in the folder')
  parser.add_argument('--classes', type=int, default=1000)
  parser.add_argument('--rounds', type=int, default=2)
  args = parser.parse_args()
  keep_freed_memory()
  with tempfile.TemporaryDirectory() as folder:
    write_folder(pathlib.Path(folder), args.classes, max(args.images, args.batch_size))
    c = make_config(args, pathlib.Path(folder))
    batch = first_batch(c)
    ways = {
      'step': lambda: time_step(c, batch),
      'loop, one batch': lambda: time_loop(c, batch),
      'loop, JPEGs': lambda: time_loop(c),
    }
    speeds: dict[str, Speeds] = {way: [] for way in ways}
    for _ in range(args.rounds):
      for way, run in ways.items():
        speeds[way] += run()
    training = make_training(c, args.classes, c.total_steps)
    report(c, speeds, train_flops(training.model))


if __name__ == '__main__':
  main()
