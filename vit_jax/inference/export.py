"""Export models as files that other programs run: StableHLO for JAX, ONNX for everything else.

Both formats contain everything from pixels to probabilities, for batches of any size.
"""

from __future__ import annotations

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

from vit_jax.errors import InputError, machine_failure, reason, unknown
from vit_jax.evaluation.losses import to_probabilities
from vit_jax.files import user_path
from vit_jax.inference.predict import check_classes
from vit_jax.models.params import Params
from vit_jax.models.pixels import to_input
from vit_jax.models.usage import usage_of
from vit_jax.pretrained.architecture import infer_model
from vit_jax.pretrained.npz import read_npz, write_npz

PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')
DEFAULT_PLATFORMS = ('cpu', 'cuda', 'tpu')
WEIGHTS = ('inside', 'beside')
_MAX_INSIDE = 2**31 - 2**24  # bytes of weights; a file of either format has at most 2 GiB

FlatParams = dict[str, np.ndarray]  # {name: array}


def export_stablehlo(
  model: nn.Module,
  params: Params,
  path: str | os.PathLike[str],
  *,
  loss: str | None = None,
  platforms: Sequence[str] = DEFAULT_PLATFORMS,
  weights: str = 'inside',
  class_names: Sequence[str] | None = None,
) -> None:
  """Export a model and its preprocessing as a program that needs only JAX.

      program = jax.export.deserialize(pathlib.Path(path).read_bytes())
      probabilities = jax.jit(program.call)(images)  # (B, H, W, 3) uint8 RGB -> (B, K) float32

  Attention is computed with all heads at once, unless the model says 'by_head'.

  path.json describes the model, its input and output, and how images are resized, if model.usage
  says it. It has the names of the classes.

  Args:
    model: a model from `create_model`, with a head.
    params: its parameters, as `load_params` returns them.
    path: a new file.
    loss: the loss that the model was trained with. For 'softmax', the probabilities of all classes
      sum to 1. For 'sigmoid', each class has its own probability. None: that of model.usage, or
      'softmax'.
    platforms: where the program can run, from 'cpu', 'cuda', 'rocm' and 'tpu'.
    weights: 'inside' writes one file of up to 2 GiB, which XLA compiles again, with the weights,
      for each batch size. 'beside' writes the weights to path.npz, which `load_params` can also
      read. They are then an argument of the program, program.call(dict(np.load('path.npz')),
      images), and the program starts faster.
    class_names: names of all classes, in the order of the head. None: those of model.usage.

  Raises:
    InputError: the arguments do not fit each other, or a file exists or cannot be written.
  """
  others = sorted(set(platforms) - set(PLATFORMS))
  if others or not platforms:  # `unknown` would suggest 'tpu' for 'gpu'
    raise InputError(f'Unknown platform {", ".join(others)!r}. Available: {", ".join(PLATFORMS)}.')
  class_names = class_names or usage_of(model).names(model.num_classes)
  loss_kind: str = usage_of(model).updated(loss=loss).loss
  flat = _check(model, params, loss_kind, weights, class_names)
  function = functools.partial(_probabilities, model, loss_kind)
  arguments: tuple[Any, ...] = (_abstract_images(model),)
  if weights == 'inside':
    function = functools.partial(function, flat)
  else:
    arguments = jax.tree.map(jax.typeof, flat), *arguments
  weights_suffix = '.npz' if weights == 'beside' else None
  with _new_files(path, weights_suffix) as out:
    program = jax_export.export(jax.jit(function), platforms=tuple(platforms))(*arguments)
    out.write_bytes(program.serialize())
    if weights_suffix:
      write_npz(flat, f'{out}{weights_suffix}', spelling='linen')
    metadata = _metadata(model, flat, loss_kind, weights_suffix and out.name + weights_suffix)
    _write_metadata(out, metadata | {'platforms': list(platforms)}, class_names)


def load_exported(path: str | os.PathLike[str]) -> Callable[[Any], jax.Array]:
  """Load a program that `export_stablehlo` wrote.

  Returns:
    A function from images, (B, H, W, 3) uint8 RGB, to probabilities, (B, K) float32.

  Raises:
    InputError: the file does not exist or is damaged.
  """
  path = user_path(path)
  try:
    content = bytearray(path.read_bytes())
  except FileNotFoundError:
    raise InputError(f'Cannot read {path}: no such file. Check the path.') from None
  except OSError as e:
    raise InputError(f'Cannot read {path}: {reason(e)}. Check its permissions and its disk.') from e
  try:
    program = jax_export.deserialize(content)
  except Exception as e:  # flatbuffers and MLIR raise all kinds of errors on damaged files
    if machine_failure(e):
      raise
    raise InputError(f'{path} is not a readable StableHLO program ({e}). Export it again.') from e
  call = jax.jit(program.call)
  if len(program.in_avals) == 1:
    return call
  return functools.partial(call, jax.device_put(read_npz(f'{path}.npz')))


def export_onnx(
  model: nn.Module,
  params: Params,
  path: str | os.PathLike[str],
  *,
  loss: str | None = None,
  weights: str = 'inside',
  class_names: Sequence[str] | None = None,
) -> None:
  """Export a model and its preprocessing as ONNX, with input 'images' and output 'probabilities'.

  They have the shapes and types of `export_stablehlo`.

  Args:
    model: a model from `create_model`, with a head. It has to compute in float32.
    params: its parameters, as `load_params` returns them.
    path: a new file.
    loss: as for `export_stablehlo`.
    weights: 'inside' writes one file of up to 2 GiB, 'beside' writes the weights to path.data.
    class_names: names of all classes, in the order of the head. None: those of model.usage.

  Raises:
    InputError: the arguments do not fit each other, a file exists or cannot be written, or jax2onnx
      is not installed or cannot convert this model correctly.
  """
  if importlib.util.find_spec('jax2onnx') is None:
    raise InputError("ONNX needs the package jax2onnx. Run: pip install 'vit_jax[onnx]'")
  class_names = class_names or usage_of(model).names(model.num_classes)
  loss_kind: str = usage_of(model).updated(loss=loss).loss
  flat = _check(model, params, loss_kind, weights, class_names)
  if model.dtype != jnp.float32:
    raise InputError(
      f'ONNX needs dtype=float32, but the model computes in {jnp.dtype(model.dtype)}.'
    )
  import jax2onnx
  import onnx

  weights_suffix = '.data' if weights == 'beside' else None
  with _new_files(path, weights_suffix) as out:
    try:
      graph = jax2onnx.to_onnx(
        functools.partial(_probabilities, model, loss_kind, flat),
        [_abstract_images(model)],
        model_name='vit_jax',
        input_names=['images'],
        output_names=['probabilities'],
      )
    except Exception as e:  # jax2onnx raises all kinds of errors
      if machine_failure(e):
        raise
      raise InputError(f'jax2onnx cannot convert this model ({type(e).__name__}: {e}).') from e
    beside = weights_suffix is not None
    onnx.save_model(graph, out, save_as_external_data=beside, location=f'{out.name}.data')
    _verify_onnx(out, model, loss_kind, flat)
    metadata = _metadata(model, flat, loss_kind, weights_suffix and out.name + weights_suffix)
    _write_metadata(out, metadata, class_names)


def _verify_onnx(path: pathlib.Path, model: nn.Module, loss: str, flat: FlatParams) -> None:
  """Compare the file with the model on noise, since the converter does not check its result."""
  import onnxruntime

  images = np.random.default_rng(0).integers(0, 256, (2, *model.image_size, 3), np.uint8)
  expected = jax.jit(functools.partial(_probabilities, model, loss))(flat, images)
  actual = onnxruntime.InferenceSession(path).run(None, {'images': images})[0]
  error = np.abs(actual - expected).max()
  if not error < 1e-4:
    raise InputError(
      f'jax2onnx cannot convert this model: its probabilities are off by {error:.2g}.'
    )


def _probabilities(model: nn.Module, loss: str, flat: FlatParams, images: jax.Array) -> jax.Array:
  """Return the probabilities of images: (B, H, W, 3) uint8 -> (B, K) float32."""
  params = traverse_util.unflatten_dict(flat, sep='/')
  # Left open, attention would suit the machine that exports, and cuDNN's is for GPUs only.
  if getattr(model, 'attention_implementation', 'plain') in (None, 'cudnn'):
    model = model.clone(attention_implementation='plain')
  logits = jnp.asarray(model.apply({'params': params}, to_input(images)))
  return to_probabilities(logits, loss)


def _abstract_images(model: nn.Module) -> jax.ShapeDtypeStruct:
  """Return the type of a batch of images, of any size."""
  (b,) = jax_export.symbolic_shape('b')
  return jax.ShapeDtypeStruct((b, *model.image_size, 3), jnp.uint8)


def _check(
  model: nn.Module, params: Params, loss: str, weights: str, class_names: Sequence[str] | None
) -> FlatParams:
  """Return the parameters as {name: array}, or raise InputError if the arguments do not fit."""
  check_classes(model, class_names, loss)
  if weights not in WEIGHTS:
    raise unknown('weights', weights, WEIGHTS)
  flat = jax.device_get(traverse_util.flatten_dict(params, sep='/'))
  size = sum(array.nbytes for array in flat.values())
  if weights == 'inside' and size > _MAX_INSIDE:
    raise InputError(
      f'The weights have {size / 2**30:.2f} GiB, but a single file can have at most 2 GiB. Use '
      'weights=beside to write them to a file of their own.'
    )
  return flat


@contextlib.contextmanager
def _new_files(path: str | os.PathLike[str], weights_suffix: str | None) -> Iterator[pathlib.Path]:
  """Yield a temporary path, whose files move beside `path` if the block succeeds.

  Args:
    path: the new file. path.json and path + weights_suffix, if there is one, must not exist either.
    weights_suffix: '.npz' or '.data', or None if no file is written for the weights.
  """
  path = user_path(path)
  for suffix in ('', '.json', weights_suffix or ''):
    if os.path.lexists(f'{path}{suffix}'):
      raise InputError(f'{path}{suffix} exists. Delete it or choose another name.')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.export_', dir=path.parent) as directory:
      out = pathlib.Path(directory) / path.name
      yield out
      for file in sorted(out.parent.iterdir(), reverse=True):  # the program itself comes last
        os.replace(file, path.with_name(file.name))
  except OSError as e:
    raise InputError(f'Cannot write {path} ({e}).') from e


def _metadata(
  model: nn.Module, flat: FlatParams, loss: str, weights_file: str | None
) -> dict[str, Any]:
  """Return the description of an exported model that is written to path.json."""
  name, _ = infer_model(flat)
  usage = usage_of(model)
  preprocessing = {
    'preset': usage.preset,
    'resize_size': usage.resize_size,
    'filter': usage.updated().eval_filter,
    'fast_dct': usage.updated().fast_dct,
  }
  return {
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
    **({'preprocessing': preprocessing} if usage.preset else {}),
    'output': {'name': 'probabilities', 'shape': ['b', model.num_classes], 'dtype': 'float32'},
    'weights': weights_file,
    'jax_version': jax.__version__,
  }


def _write_metadata(
  out: pathlib.Path, metadata: dict[str, Any], class_names: Sequence[str] | None
) -> None:
  """Write the metadata and the class names to out.json, one key per line."""
  entries = metadata | {'class_names': class_names and list(class_names)}
  lines = (f'  {json.dumps(key)}: {json.dumps(value)}' for key, value in entries.items())
  pathlib.Path(f'{out}.json').write_text('{\n' + ',\n'.join(lines) + '\n}\n')
