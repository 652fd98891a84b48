"""Measures exported files beside the model itself: size, seconds to write and to start, speed.

  python -m benchmarks.export --model=ViT-S/16 --batch_size=8

Weights are random. 'start' is reading the file and the first call, compilation included. 'ms' is
the median over interleaved rounds, 'ratio' to the jitted model, 'error' the largest difference
of a probability, relative to the largest probability. ONNX where the extra 'onnx' is installed.
"""

import argparse
import importlib.util
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np

from vit_jax.inference.export import export_onnx, export_stablehlo, load_exported
from vit_jax.models.create import create_model
from vit_jax.models.pixels import to_input
from vit_jax.pretrained.load import abstract_params


def timed(f, *args, **kwargs):
  start = time.perf_counter()
  result = f(*args, **kwargs)
  return result, time.perf_counter() - start


def onnx_session(path):
  import onnxruntime

  session = onnxruntime.InferenceSession(path)
  return lambda images: session.run(None, {'images': images})[0]


def measure(name, batch_size, rounds, directory):
  model = create_model(name, num_classes=1000)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda a: rng.standard_normal(a.shape, np.float32) * 0.03 + (a.ndim == 1),
    abstract_params(model),
  )
  images = rng.integers(0, 256, (batch_size, *model.image_size, 3), np.uint8)
  apply = jax.jit(lambda p, x: jax.nn.softmax(model.apply({'params': p}, to_input(x))))
  on_device = jax.device_put(params)
  calls = {'model': lambda images: np.asarray(apply(on_device, images))}
  want, start = timed(calls['model'], images)
  rows = {'model': ('', '', start, 0.0)}
  ways = {
    'inside': (export_stablehlo, load_exported, dict(weights='inside')),
    'beside': (export_stablehlo, load_exported, dict(weights='beside')),
  }
  if importlib.util.find_spec('jax2onnx'):
    ways['onnx'] = export_onnx, onnx_session, {}
  for way, (export, load, options) in ways.items():
    path = directory / way
    write = timed(export, model, params, path, **options)[1]
    size = sum(f.stat().st_size for f in directory.glob(f'{way}*')) / 1e6
    loaded, read = timed(load, path)
    calls[way] = lambda images, loaded=loaded: np.asarray(loaded(images))
    result, first = timed(calls[way], images)
    rows[way] = f'{size:.1f}', f'{write:.1f}', read + first, abs(result - want).max() / want.max()
  seconds = {way: [] for way in calls}
  for _ in range(rounds):
    for way, call in calls.items():
      seconds[way].append(timed(call, images)[1])
  print(f'{name}, batch {batch_size}, {jax.devices()[0].device_kind}, jax {jax.__version__}')
  print(f'{"":8}{"MB":>8}{"write s":>9}{"start s":>9}{"ms":>9}{"ratio":>7}{"error":>10}')
  for way, (size, write, start, error) in rows.items():
    ratio = statistics.median(a / b for a, b in zip(seconds[way], seconds['model']))
    print(
      f'{way:8}{size:>8}{write:>9}{start:9.1f}{statistics.median(seconds[way]) * 1e3:9.0f}'
      f'{ratio:7.2f}{error:10.1e}'
    )


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--model', default='ViT-S/16')
  parser.add_argument('--batch_size', type=int, default=8)
  parser.add_argument('--rounds', type=int, default=15)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as directory:
    measure(args.model, args.batch_size, args.rounds, pathlib.Path(directory))


if __name__ == '__main__':
  main()
