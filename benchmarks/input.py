"""Measure the input pipeline in images per second of CPU time, and compare it with tf.data.

    python -m benchmarks.input
    python -m benchmarks.input --tf_python=/path/to/an/environment/with/tensorflow/bin/python

The job is to turn 500 x 375 JPEGs in memory into inception crops at 224 px, flip them, and make
batches of 64, with two threads. The rows of the table take turns, round by round, so that other
load on the machine affects all of them. The figures are medians over the rounds. CPU time counts
every thread of the process. tf.data returns float32 in [-1, 1]. Our pipeline returns uint8, which
the train step scales on the device.

vit_jax is imported inside functions, because TensorFlow's interpreter runs this file without it.
"""

import argparse
from collections.abc import Callable, Iterator
import concurrent.futures
import functools
import os
import pickle
import resource
import statistics
import subprocess
import sys
import time
from typing import Any
from unittest import mock

import numpy as np

HEIGHT, WIDTH, SIZE, BATCH, THREADS = 375, 500, 224, 64, 2

# A job makes this many images. If it waited at its end, it returns the time when it began to wait.
Job = Callable[[int], float | None]


def make_jpegs(count: int, seed: int = 0) -> list[bytes]:
  """Make JPEGs of 70-115 KB whose contrast falls with frequency, as in photographs."""
  import simplejpeg

  rng = np.random.default_rng(seed)
  fy, fx = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None, :]
  envelope = 1 / np.maximum(np.hypot(fy, fx), 1 / WIDTH)

  def field(exponent: float) -> np.ndarray:
    noise = np.fft.rfft2(rng.standard_normal((HEIGHT, WIDTH)))
    values = np.fft.irfft2(noise * envelope**exponent, (HEIGHT, WIDTH))
    return values / values.std()

  jpegs = []
  for _ in range(count):
    light, red, blue = 50 * field(rng.uniform(1.0, 1.3)), 15 * field(1.5), 15 * field(1.5)
    pixels = 118 + np.stack([light + red, light - (red + blue) / 2, light + blue], axis=-1)
    jpegs.append(simplejpeg.encode_jpeg(pixels.clip(0, 255).astype(np.uint8), 90, 'RGB', '420'))
  return jpegs


def thread_pool_job(
  jpegs: list[bytes], extension: Any, augment: Callable[..., np.ndarray] | None = None
) -> Job:
  """Return the job that only preprocesses, in a pool of threads."""
  from vit_jax.data import decode
  from vit_jax.data.preprocess import make_train_preprocess

  preprocess = make_train_preprocess('inception', SIZE, augment=augment)

  def one(index: int) -> np.ndarray:
    return preprocess(jpegs[index % len(jpegs)], np.random.default_rng((0, index)))

  def run(count: int) -> None:
    with (
      concurrent.futures.ThreadPoolExecutor(THREADS) as pool,
      mock.patch.object(decode, '_jpegcrop', extension),
    ):
      for start in range(0, count, BATCH):
        np.stack(list(pool.map(one, range(start, start + BATCH))))

  return run


class Memory:
  """A source that repeats the JPEGs and has as many images as ImageNet."""

  multi_label = False

  def __init__(self, jpegs: list[bytes]):
    self.jpegs = jpegs

  def __len__(self) -> int:
    return 1_281_167

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {'image': self.jpegs[index % len(self.jpegs)], 'label': 0}


def pipeline(jpegs: list[bytes]) -> Any:
  """Return batches from the whole training pipeline: shuffle, preset, batching, read-ahead."""
  from vit_jax.data.batch import ReadOptions
  from vit_jax.data.pipeline import train_batches
  from vit_jax.data.preprocess import make_train_preprocess

  preprocess = make_train_preprocess('inception', SIZE)
  options = ReadOptions(BATCH, num_threads=THREADS)
  return train_batches(Memory(jpegs), preprocess, options, seed=0)


def waiting_share(batches: Iterator[Any], rate: float, steps: int = 60) -> float:
  """Return the share of time that a device waits for data if it trains `rate` images/s."""
  next(batches)
  waited = 0.0
  begun = time.perf_counter()
  for _ in range(steps):
    time.sleep(BATCH / rate)  # the device works, the host is free
    start = time.perf_counter()
    next(batches)
    waited += time.perf_counter() - start
  return waited / (time.perf_counter() - begun)


def pipeline_job(jpegs: list[bytes]) -> Job:
  """Return the job of the whole pipeline."""
  batches = pipeline(jpegs)

  def run(count: int) -> float:
    for _ in range(count // BATCH):
      next(batches)
    # Wait until the pipeline has read ahead as far as before the round. Only then has it made
    # `count` images.
    end, idle = time.perf_counter(), 0
    while idle < 8:
      before = time.process_time()
      time.sleep(0.02)
      idle += 1
      if time.process_time() - before > 0.001:
        end, idle = time.perf_counter(), 0
    return end

  return run


def tf_data_job(jpegs: list[bytes]) -> Job:
  """Return the same job in tf.data, with its fused decode and crop."""
  import tensorflow as tf

  def one(data: Any) -> Any:
    shape = tf.io.extract_jpeg_shape(data)
    begin, size, _ = tf.image.sample_distorted_bounding_box(
      shape,
      tf.zeros((0, 0, 4)),
      min_object_covered=0,
      area_range=(0.05, 1),
      aspect_ratio_range=(3 / 4, 4 / 3),
      use_image_if_no_bounding_boxes=True,
    )
    window = tf.stack([begin[0], begin[1], size[0], size[1]])
    image = tf.image.decode_and_crop_jpeg(data, window, channels=3)
    image = tf.image.random_flip_left_right(tf.image.resize(image, (SIZE, SIZE)))
    return image / 127.5 - 1

  options = tf.data.Options()
  options.threading.private_threadpool_size = THREADS
  data = tf.data.Dataset.from_tensor_slices(jpegs).repeat()
  data = data.map(one, num_parallel_calls=THREADS).batch(BATCH).with_options(options)

  def run(count: int) -> None:
    for _ in data.take(count // BATCH):
      pass

  return run


def timed(job: Job, count: int) -> tuple[float, float]:
  """Return (CPU seconds, seconds) of one round."""
  cpu, start = time.process_time(), time.perf_counter()
  end = job(count) or time.perf_counter()
  return time.process_time() - cpu, end - start


def start_tf(python: str, jpegs: list[bytes]) -> Callable[[int], tuple[float, float]]:
  """Start this file in another interpreter. Return a function that runs a round there."""
  process = subprocess.Popen(
    [python, __file__, '--serve_tf'],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    env=os.environ | {'CUDA_VISIBLE_DEVICES': '-1', 'TF_CPP_MIN_LOG_LEVEL': '2'},
  )

  pickle.dump(jpegs, process.stdin)

  def one_round(count: int) -> tuple[float, float]:
    pickle.dump(count, process.stdin)
    process.stdin.flush()
    return pickle.load(process.stdout)

  return one_round


def serve_tf() -> None:
  """Run rounds of tf.data when the process at the other end of the pipe asks for them."""
  job = tf_data_job(pickle.load(sys.stdin.buffer))
  while sys.stdin.buffer.peek(1):  # empty when the other process has ended
    pickle.dump(timed(job, pickle.load(sys.stdin.buffer)), sys.stdout.buffer)
    sys.stdout.flush()


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--images', type=int, default=384, help='per round, a multiple of 64')
  parser.add_argument('--rounds', type=int, default=9)
  parser.add_argument('--tf_python', help='interpreter of an environment with TensorFlow')
  parser.add_argument('--serve_tf', action='store_true', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.serve_tf:
    serve_tf()
    return
  if args.images < BATCH or args.images % BATCH or args.rounds < 1:
    parser.error(f'--images must be a multiple of {BATCH} and --rounds at least 1')

  from vit_jax.data.augment import make_augment
  from vit_jax.data.decode import _jpegcrop

  jpegs = make_jpegs(BATCH)
  rows = {'preset, whole decode': functools.partial(timed, thread_pool_job(jpegs, None))}
  if _jpegcrop is not None:
    rows['preset, partial decode'] = functools.partial(timed, thread_pool_job(jpegs, _jpegcrop))
  rows['preset, RandAugment 2,15'] = functools.partial(
    timed, thread_pool_job(jpegs, _jpegcrop, make_augment(2, 15))
  )
  rows['pipeline'] = functools.partial(timed, pipeline_job(jpegs))
  if args.tf_python:
    rows['tf.data'] = start_tf(args.tf_python, jpegs)

  for one_round in rows.values():
    one_round(BATCH)  # warm up
  times = {name: [] for name in rows}
  for _ in range(args.rounds):
    for name, one_round in rows.items():
      times[name].append(one_round(args.images))
  print(
    f'JPEGs of {statistics.mean(map(len, jpegs)) / 1e3:.0f} KB, {args.rounds} rounds of '
    f'{args.images} images, {THREADS} threads, load {os.getloadavg()[0]:.1f}'
  )
  medians = {name: [statistics.median(column) for column in zip(*times[name])] for name in rows}
  print(f'{"":24}{"images/CPU-s":>14}{"images/s":>10}{"of tf.data":>12}')
  for name, (cpu, wall) in medians.items():
    ratio = f'{medians["tf.data"][0] / cpu:12.2f}' if args.tf_python else f'{"-":>12}'
    print(f'{name:24}{args.images / cpu:14.0f}{args.images / wall:10.0f}{ratio}')
  with pipeline(jpegs) as batches:
    for share in (0.5, 0.7, 0.9):
      rate = share * args.images / medians['pipeline'][1]
      print(
        f'a device that takes {rate:.0f} images/s, {share:.0%} of what the pipeline makes, '
        f'waits {waiting_share(batches, rate):.1%} of its time'
      )
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
  print(f'peak memory of this process (without tf.data): {peak:.0f} MB')


if __name__ == '__main__':
  main()
