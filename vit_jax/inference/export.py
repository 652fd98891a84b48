"""Models as files that other programs run: StableHLO wherever JAX is, ONNX everywhere else.

Both hold the whole way from pixels to probabilities, for batches of any size.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
import importlib.util
import json
import os
import pathlib
import tempfile
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
from jax import export as jax_export
import jax.numpy as jnp
import numpy as np

from vit_jax.errors import InputError
from vit_jax.evaluation.losses import LOSSES, to_probabilities
from vit_jax.models.pixels import to_input
from vit_jax.pretrained.architecture import infer_model
from vit_jax.pretrained.npz import read_npz, write_npz

PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')
WEIGHTS = ('inside', 'beside')
_ONE_FILE = 2**31 - 2**24  # bytes of weights: both formats end at 2 GiB


def export_stablehlo(
  model: nn.Module,
  params: Any,
  path: str | os.PathLike,
  *,
  loss: str = 'softmax',
  platforms: Sequence[str] = ('cpu', 'cuda', 'tpu'),
  weights: str = 'inside',
  class_names: Sequence[str] | None = None,
) -> None:
  """Writes a model and its preprocessing as a program that needs JAX alone.

      program = jax.export.deserialize(pathlib.Path(path).read_bytes())
      probabilities = jax.jit(program.call)(images)  # (B, H, W, 3) uint8 RGB -> (B, K) float32

  path.json tells which model it is, what goes in and comes out, and the names of the classes.

  Args:
    model: made by `create_model`, with a head.
    params: its parameters, as `load_params` returns them.
    path: of a new file.
    loss: what was trained with. 'softmax': probabilities sum to 1; 'sigmoid': each by itself.
    platforms: where the program shall run, of 'cpu', 'cuda', 'rocm' and 'tpu'.
    weights: 'inside': one file, up to 2 GiB, whose weights XLA compiles anew for each size of
      batch. 'beside': the weights are in path.npz, which `load_params` reads too, and are an
      argument of the program: program.call(dict(np.load('path.npz')), images). Starts faster.
    class_names: in the order of the head.

  Raises:
    InputError: for arguments that do not fit, a file that exists or cannot be written.
  """
  unknown = sorted(set(platforms) - set(PLATFORMS))
  if unknown or not platforms:
    raise InputError(f'unknown platform {", ".join(unknown)!r}; there are {", ".join(PLATFORMS)}')
  flat = _check(model, params, loss, weights, class_names)
  function, arguments = functools.partial(_probabilities, model, loss), (_images(model),)
  if weights == 'inside':
    function = functools.partial(function, flat)
  else:
    arguments = jax.tree.map(jax.typeof, flat), *arguments
  beside = ['.npz'] * (weights == 'beside')
  with _new_files(path, '.json', *beside) as out:
    program = jax_export.export(jax.jit(function), platforms=tuple(platforms))(*arguments)
    out.write_bytes(program.serialize())
    if beside:
      write_npz(flat, f'{out}.npz', spelling='linen')
    _write_about(out, model, flat, loss, class_names, beside, platforms=list(platforms))


def load_exported(path: str | os.PathLike) -> Callable[[Any], jax.Array]:
  """Reads what `export_stablehlo` wrote: (B, H, W, 3) uint8 RGB -> probabilities (B, K) float32.

  Raises:
    InputError: naming the file, when it is missing or damaged.
  """
  path = pathlib.Path(path).expanduser()
  try:
    program = jax_export.deserialize(path.read_bytes())
  except FileNotFoundError:
    raise InputError(f'{path}: no such file') from None
  except Exception as e:  # flatbuffers and MLIR: all kinds on damage
    raise InputError(f'{path} is not a readable StableHLO program ({e}); export it again') from e
  call = jax.jit(program.call)
  if len(program.in_avals) == 1:
    return call
  return functools.partial(call, jax.device_put(read_npz(f'{path}.npz')))


def export_onnx(
  model: nn.Module,
  params: Any,
  path: str | os.PathLike,
  *,
  loss: str = 'softmax',
  weights: str = 'inside',
  class_names: Sequence[str] | None = None,
) -> None:
  """Writes a model and its preprocessing as ONNX: 'images' -> 'probabilities', as StableHLO.

  Args:
    weights: 'inside': one file, up to 2 GiB; 'beside': the weights are in path.data.
    model, params, path, loss, class_names: as of `export_stablehlo`; computes in float32 only.

  Raises:
    InputError: also when the extra 'onnx' is not installed or converts this model wrongly.
  """
  if importlib.util.find_spec('jax2onnx') is None:
    raise InputError("ONNX needs the package jax2onnx: pip install 'vit_jax[onnx]'")
  flat = _check(model, params, loss, weights, class_names)
  if model.dtype != jnp.float32:
    raise InputError(f'ONNX is written with dtype=float32, not {jnp.dtype(model.dtype)}')
  import jax2onnx
  import onnx

  beside = ['.data'] * (weights == 'beside')
  with _new_files(path, '.json', *beside) as out:
    try:
      graph = jax2onnx.to_onnx(
        functools.partial(_probabilities, model, loss, flat),
        [_images(model)],
        model_name='vit_jax',
        input_names=['images'],
        output_names=['probabilities'],
      )
    except Exception as e:  # all kinds, where it lacks an operation
      raise InputError(f'jax2onnx cannot convert this model ({type(e).__name__}: {e})') from e
    onnx.save_model(graph, out, save_as_external_data=bool(beside), location=f'{out.name}.data')
    _verify_onnx(out, model, loss, flat)
    _write_about(out, model, flat, loss, class_names, beside)


def _verify_onnx(path, model, loss, flat):
  """Compares the file with the model on noise: the converter rewrites layers and checks nothing."""
  import onnxruntime

  images = np.random.default_rng(0).integers(0, 256, (2, *model.image_size, 3), np.uint8)
  want = jax.jit(functools.partial(_probabilities, model, loss))(flat, images)
  found = onnxruntime.InferenceSession(path).run(None, {'images': images})[0]
  error = np.abs(found - want).max()
  if not error < 1e-4:
    raise InputError(f'jax2onnx cannot convert this model: probabilities differ by {error:.2g}')


def _probabilities(model, loss, flat, images):
  """(B, H, W, 3) uint8 -> (B, K) float32; `flat` is {name: array}."""
  params = traverse_util.unflatten_dict(flat, sep='/')
  return to_probabilities(model.apply({'params': params}, to_input(images)), loss)


def _images(model):
  (b,) = jax_export.symbolic_shape('b')
  return jax.ShapeDtypeStruct((b, *model.image_size, 3), jnp.uint8)


def _check(model, params, loss, weights, class_names) -> dict[str, np.ndarray]:
  """Returns the parameters as {name: array}; raises InputError for what does not fit."""
  if not model.num_classes:
    raise InputError('the model has no head (num_classes=0): there are no classes to predict')
  if class_names is not None and len(class_names) != model.num_classes:
    raise InputError(
      f'there are {len(class_names):,} class names, but the model has {model.num_classes:,} classes'
    )
  for value, field, choices in (loss, 'loss', LOSSES), (weights, 'weights', WEIGHTS):
    if value not in choices:
      raise InputError(f'unknown {field} {value!r}; there are {", ".join(choices)}')
  flat = jax.device_get(traverse_util.flatten_dict(params, sep='/'))
  size = sum(x.nbytes for x in flat.values())
  if weights == 'inside' and size > _ONE_FILE:
    raise InputError(
      f'the weights have {size / 2**30:.2f} GiB and a file for all ends at 2 GiB: '
      'give weights=beside, for a file of their own'
    )
  return flat


@contextlib.contextmanager
def _new_files(path: str | os.PathLike, *beside: str) -> Iterator[pathlib.Path]:
  """A path to write to, also with the endings `beside`; all come to `path` when all went well."""
  path = pathlib.Path(path).expanduser()
  for ending in '', *beside:
    if os.path.lexists(f'{path}{ending}'):
      raise InputError(f'{path}{ending} exists: delete it or give another name')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.export_', dir=path.parent) as directory:
      out = pathlib.Path(directory) / path.name
      yield out
      for file in sorted(out.parent.iterdir(), reverse=True):  # the program itself last
        os.replace(file, path.with_name(file.name))
  except OSError as e:
    raise InputError(f'cannot write {path} ({e})') from e


def _write_about(out, model, flat, loss, class_names, beside, **more):
  name, _ = infer_model(flat)
  about = {
    'model': name,
    'image_size': model.image_size,
    'dtype': jnp.dtype(model.dtype).name,
    'loss': loss,
    'input': {
      'name': 'images',
      'shape': ['b', *model.image_size, 3],
      'dtype': 'uint8',
      'values': 'RGB, 0 to 255',
    },
    'output': {'name': 'probabilities', 'shape': ['b', model.num_classes], 'dtype': 'float32'},
    'weights': out.name + beside[0] if beside else None,
    'jax_version': jax.__version__,
    **more,
    'class_names': class_names and list(class_names),
  }
  lines = (f'  {json.dumps(key)}: {json.dumps(value)}' for key, value in about.items())
  pathlib.Path(f'{out}.json').write_text('{\n' + ',\n'.join(lines) + '\n}\n')
