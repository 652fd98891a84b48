"""Measure recall and precision of duplicate detection, and the time and memory of the join.

    python -m benchmarks.dedup recall                       # on photographs and clothes
    python -m benchmarks.dedup embedding --checkpoint=PATH  # with a model that checks the pairs
    python -m benchmarks.dedup scale                        # join up to 1,000,000 hashes

The photographs come from scikit-learn and Matplotlib, and from scikit-image if it is installed.
They are cut into tiles. The clothes are Fashion-MNIST (Debian's dataset-fashion-mnist), and are
left out if it is not installed.
"""

import argparse
import gzip
import importlib.util
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np

from vit_jax.dedup.bands import find_pairs, make_index
from vit_jax.dedup.beam import Hashed, gather, import_beam, join, run_pipeline
from vit_jax.dedup.embedding import embedding_distances
from vit_jax.dedup.hashes import against_hashes, train_hashes
from vit_jax.pretrained.load import load_model

THRESHOLDS = (4, 6, 8, 10, 12)
DISTANCES = (0.1, 0.2, 0.3, 0.4, 0.5)
FASHION = pathlib.Path('/usr/share/datasets/fashion-mnist')
SKIMAGE = (
  'astronaut',
  'brick',
  'camera',
  'cell',
  'chelsea',
  'clock_motion',
  'coffee',
  'coins',
  'grass',
  'gravel',
  'hubble_deep_field',
  'ihc',
  'moon',
  'motorcycle_left',
  'page',
  'retina',
  'rocket',
)


def photographs():
  """Return photographs, (H, W, 3) uint8 RGB each. No two show the same scene."""
  import matplotlib
  from sklearn.datasets import load_sample_images

  paths = [os.path.join(matplotlib.get_data_path(), 'sample_data', 'grace_hopper.jpg')]
  if spec := importlib.util.find_spec('skimage'):
    folder = pathlib.Path(spec.origin).parent / 'data'
    paths += sorted(str(p) for p in folder.iterdir() if p.stem in SKIMAGE)
  return [*load_sample_images().images, *(cv2.imread(p)[..., ::-1] for p in paths)]


def tiles(images, side):
  """Cut images into squares that do not overlap. Leave out squares of nearly one color."""
  cut = [
    image[y : y + side, x : x + side]
    for image in images
    for y in range(0, image.shape[0] - side + 1, side)
    for x in range(0, image.shape[1] - side + 1, side)
  ]
  return [np.ascontiguousarray(tile) for tile in cut if tile.std() > 10]


def fashion(name, count):
  """Return images of Fashion-MNIST, (28, 28, 3) uint8 each."""
  with gzip.open(FASHION / f'{name}-images-idx3-ubyte.gz') as f:
    pixels = np.frombuffer(f.read(16 + 784 * count), np.uint8, offset=16)
  return list(np.repeat(pixels.reshape(-1, 28, 28, 1), 3, axis=-1))


def jpeg(image, quality):
  return cv2.imdecode(
    cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR
  )


def scaled(image, factor):
  return cv2.resize(
    image,
    None,
    fx=factor,
    fy=factor,
    interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC,
  )


def cropped(image, share, rng):
  """Return a random crop that is smaller by `share` of the height and of the width."""
  height, width = image.shape[:2]
  h, w = round(height * (1 - share)), round(width * (1 - share))
  y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
  return image[y : y + h, x : x + w]


def framed(image, share, level):
  y, x = round(share * image.shape[0]), round(share * image.shape[1])
  return cv2.copyMakeBorder(image, y, y, x, x, cv2.BORDER_CONSTANT, value=(level,) * 3)


def brighter(image, factor):
  return (image * np.float32(factor)).clip(0, 255).astype(np.uint8)


KINDS = {
  **{f'JPEG quality {q}': lambda x, _, q=q: jpeg(x, q) for q in (95, 75, 50, 30)},
  **{f'resized {f}x': lambda x, _, f=f: jpeg(scaled(x, f), 90) for f in (0.5, 0.7, 1.5, 2)},
  'cropped 5 %': lambda x, rng: jpeg(cropped(x, 0.05, rng), 90),
  'cropped 10 %': lambda x, rng: jpeg(cropped(x, 0.1, rng), 90),
  'mirrored': lambda x, _: jpeg(np.ascontiguousarray(x[:, ::-1]), 90),
  **{f'brightness {f}x': lambda x, _, f=f: jpeg(brighter(x, f), 90) for f in (0.7, 1.3)},
  'white border 5 %': lambda x, _: jpeg(framed(x, 0.05, 255), 90),
  'black border 10 %': lambda x, _: jpeg(framed(x, 0.1, 0), 90),
  'mirrored, cropped 5 %, .7x, JPEG 60': lambda x, rng: jpeg(
    scaled(cropped(np.ascontiguousarray(x[:, ::-1]), 0.05, rng), 0.7), 60
  ),
}


def hash_all(function, images):
  hashes = [np.empty(0, np.uint64), *map(function, images)]
  return np.concatenate(hashes), np.repeat(np.arange(len(images)), [len(h) for h in hashes[1:]])


def recall(name, tests, others):
  """Print recall and precision for each kind of change."""
  start = time.process_time()
  against = hash_all(against_hashes, tests)
  index = make_index(*against, THRESHOLDS[-1])
  seconds = time.process_time() - start
  other_pairs = find_pairs(index, *hash_all(train_hashes, others))
  print(
    f'\n{name}: {len(tests):,} test images, an altered copy of each, {len(others):,} others; '
    f'{1e3 * seconds / len(tests):.2f} ms of CPU to hash a test image\n'
  )
  print('| recall, precision in % at a threshold of | ' + ' | '.join(map(str, THRESHOLDS)) + ' |')
  print('|---' * (1 + len(THRESHOLDS)) + '|')
  for kind, alter in KINDS.items():
    rng = np.random.default_rng(0)
    pairs = find_pairs(index, *hash_all(train_hashes, [alter(image, rng) for image in tests]))
    print(f'| {kind} | ' + ' | '.join(cell(pairs, len(tests), t) for t in THRESHOLDS) + ' |')
  counts = [(other_pairs[:, 2] <= t).sum() for t in THRESHOLDS]
  if others:
    print(
      '| pairs of a test image and one of the others, unaltered | '
      + ' | '.join(f'{n:,}' for n in counts)
      + ' |'
    )


def speed():
  """Print the CPU time to decode and to hash a photograph of a common size."""
  from benchmarks.input import make_jpegs
  from vit_jax.data.decode import decode_image

  jpegs = make_jpegs(16)
  times = []
  for function in (lambda x: x, train_hashes, against_hashes):
    function(decode_image(jpegs[0]))  # warm up
    start = time.process_time()
    for data in jpegs:
      function(decode_image(data))
    times.append(f'{1e3 * (time.process_time() - start) / len(jpegs):.1f} ms')
  decoded, as_training, as_test = times
  print(
    f'a 500 x 375 JPEG: {decoded} to decode, {as_training} to decode and hash as a training image, '
    f'{as_test} as a test image'
  )


def cell(pairs, count, threshold):
  """Return recall and precision of the pairs within a threshold, such as '98.3, 99.5'."""
  pairs = pairs[pairs[:, 2] <= threshold]
  right = (pairs[:, 0] == pairs[:, 1]).sum()
  return f'{100 * right / count:.1f}, ' + (f'{100 * right / len(pairs):.1f}' if len(pairs) else '-')


def embedding(checkpoint, image_size, tests):
  """Print recall and precision of the pairs within each maximum embedding distance."""
  model, params, _ = load_model(checkpoint, image_size=image_size)
  rng = np.random.default_rng(0)
  train = [alter(image, rng) for alter in KINDS.values() for image in tests]
  index = make_index(*hash_all(against_hashes, tests), THRESHOLDS[-1])
  pairs = find_pairs(index, *hash_all(train_hashes, train))
  start = time.perf_counter()
  distances = embedding_distances(model, params, pairs, train.__getitem__, tests.__getitem__)
  print(
    f'{len(tests)} tiles, {len(train):,} copies of all kinds, {len(pairs):,} pairs, '
    f'{time.perf_counter() - start:.0f} s; recall, precision in %\n'
  )
  print('| threshold | ' + ' | '.join(f'distance {d:g}' for d in DISTANCES) + ' | any |')
  print('|---' * (2 + len(DISTANCES)) + '|')
  pairs[:, 0] %= len(tests)  # the index of the image of which this is a copy
  for threshold in THRESHOLDS:
    near = [pairs[(distances <= d) & (pairs[:, 2] <= threshold)] for d in (*DISTANCES, 2)]
    print(f'| {threshold} | ' + ' | '.join(cell(p, len(train), threshold) for p in near) + ' |')


def scale(train_count, against_count, variants, threshold):
  """Join random hashes with the pipeline of vit_jax.dedup, and print a row of the table."""
  beam = import_beam()
  rng = np.random.default_rng(0)
  train = rng.integers(0, 2**64, train_count, dtype=np.uint64)
  tests = rng.integers(0, 2**64, (against_count, variants), dtype=np.uint64)
  planted = rng.choice(train_count, train_count // 1000, replace=False)
  train[planted] = tests[np.arange(len(planted)) % against_count, 0]
  for row in planted:  # flip at most `threshold` bits
    for bit in rng.choice(64, rng.integers(threshold + 1), replace=False):
      train[row] ^= np.uint64(1 << int(bit))
  side = lambda hashes, images: [
    Hashed(hashes[i : i + 1024], images[i : i + 1024], [], []) for i in range(0, len(hashes), 1024)
  ]
  sides = (
    side(train, np.arange(train_count)),
    side(tests.ravel(), np.repeat(np.arange(against_count), variants)),
  )
  with tempfile.TemporaryDirectory() as folder:

    def build(pipeline):
      made = [
        pipeline | f'Make {i}' >> beam.Create(s) | f'Spread {i}' >> beam.Reshuffle()
        for i, s in enumerate(sides)
      ]
      _ = join(*made, threshold) | beam.io.WriteToText(f'{folder}/parts/part')

    start = time.perf_counter()
    run_pipeline(build)
    seconds = time.perf_counter() - start
    pairs = gather(f'{folder}/parts').pairs
  hits = np.isin(planted, pairs[:, 0]).sum()
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
  compared = train_count * against_count * variants
  print(
    f'| {train_count:,} | {against_count:,} x {variants} | {threshold} | {seconds:.1f} | '
    f'{peak:,.0f} | {hits:,} of {len(planted):,} | {len(pairs) - hits:,} of {compared:.0e} |',
    flush=True,
  )


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('measure', choices=['recall', 'embedding', 'scale'])
  parser.add_argument('--side', type=int, default=128, help='side of the tiles in pixels')
  parser.add_argument('--checkpoint', metavar='PATH', help='model to measure, for embedding')
  parser.add_argument('--image_size', type=int, default=112, help='image size of the model')
  parser.add_argument('--one', type=int, nargs=4, help=argparse.SUPPRESS)  # a row of scale
  args = parser.parse_args()
  if args.one:
    scale(*args.one)
  elif args.measure == 'scale':
    scale_table()
  elif args.measure == 'embedding':
    embedding(args.checkpoint, args.image_size, tiles(photographs(), args.side))
  else:
    speed()
    recall(f'photographs, {args.side} px', tiles(photographs(), args.side), [])
    if FASHION.exists():
      recall('clothes, 28 px', fashion('t10k', 2000), fashion('train', 60000))


def scale_table():
  """Print the table of `scale`."""
  print(
    '| training hashes | test images x hashes | threshold | s | MB | planted found | '
    'others found, of pairs |\n' + '|---' * 7 + '|',
    flush=True,
  )
  counts = 10**4, 10**5, 10**6
  rows = [(count, 10_000, variants, 8) for variants in (1, 22) for count in counts]
  rows += [(count, count, 1, 8) for count in counts]
  for row in rows:  # each in its own process, to measure its peak memory
    subprocess.run(
      [sys.executable, '-m', 'benchmarks.dedup', 'scale', '--one', *map(str, row)], check=True
    )


if __name__ == '__main__':
  main()
