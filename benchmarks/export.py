"""Compare exported files with the model itself: size, time to write, time to start, and speed.

  python -m benchmarks.export --model=ViT-S/16 --batch_size=8

The weights are random. 'start' is the time to read the file and to run the first call, including
compilation. 'ms' is the median over interleaved rounds, and 'ratio' compares it with the jitted
model. 'error' is the largest difference between probabilities, relative to the largest probability.
ONNX is measured if the extra 'onnx' is installed.
"""

import argparse
from collections.abc import Callable
import importlib.util
import pathlib
import statistics
import tempfile
import time
from typing import Any, TypeVar

import jax
import numpy as np

from vit_jax.inference.export import export_onnx, export_stablehlo, load_exported
from vit_jax.models.create import create_model
from vit_jax.models.pixels import to_input
from vit_jax.pretrained.load import abstract_params

T = TypeVar('T')


def timed(f: Callable[..., T], *args: Any, **kwargs: Any) -> tuple[T, float]:
  """Call a function. Return its result and the seconds that it took."""
  start = time.perf_counter()
  result = f(*args, **kwargs)
  return result, time.perf_counter() - start


def onnx_session(path: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
  import onnxruntime

  session = onnxruntime.InferenceSession(path)
  return lambda images: session.run(None, {'images': images})[0]


def measure(name: str, batch_size: int, rounds: int, directory: pathlib.Path) -> None:
  """Export a model in all formats to the directory and print a table."""
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
  expected, start = timed(calls['model'], images)
  rows = {'model': ('', '', start, 0.0)}
  formats = {
    'inside': (export_stablehlo, load_exported, dict(weights='inside')),
    'beside': (export_stablehlo, load_exported, dict(weights='beside')),
  }
  if importlib.util.find_spec('jax2onnx'):
    formats['onnx'] = export_onnx, onnx_session, {}
  for kind, (export, load, options) in formats.items():
    path = directory / kind
    write = timed(export, model, params, path, **options)[1]
    size = sum(f.stat().st_size for f in directory.glob(f'{kind}*')) / 1e6
    loaded, read = timed(load, path)
    calls[kind] = lambda images, loaded=loaded: np.asarray(loaded(images))
    result, first = timed(calls[kind], images)
    error = abs(result - expected).max() / expected.max()
    rows[kind] = f'{size:.1f}', f'{write:.1f}', read + first, error
  seconds = {kind: [] for kind in calls}
  for _ in range(rounds):
    for kind, call in calls.items():
      seconds[kind].append(timed(call, images)[1])
  print(f'{name}, batch {batch_size}, {jax.devices()[0].device_kind}, jax {jax.__version__}')
  print(f'{"":8}{"MB":>8}{"write s":>9}{"start s":>9}{"ms":>9}{"ratio":>7}{"error":>10}')
  for kind, (size, write, start, error) in rows.items():
    ratio = statistics.median(a / b for a, b in zip(seconds[kind], seconds['model']))
    print(
      f'{kind:8}{size:>8}{write:>9}{start:9.1f}{statistics.median(seconds[kind]) * 1e3:9.0f}'
      f'{ratio:7.2f}{error:10.1e}'
    )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--model', default='ViT-S/16')
  parser.add_argument('--batch_size', type=int, default=8)
  parser.add_argument('--rounds', type=int, default=15)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as directory:
    measure(args.model, args.batch_size, args.rounds, pathlib.Path(directory))


if __name__ == '__main__':
  main()
