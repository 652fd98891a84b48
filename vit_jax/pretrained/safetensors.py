"""Read and write safetensors files and directories in the formats of timm and Hugging Face.

safetensors has no checksum of the arrays. A flipped bit in a number is noticed only if the number
becomes infinite or NaN. A damaged header or a wrong file length is always noticed.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import json
import logging
import os
import pathlib
from typing import Any

import numpy as np

from vit_jax.errors import InputError, remedy
from vit_jax.files import AnyPath, local_path, replacing
from vit_jax.models.sizes import VARIANTS
from vit_jax.pretrained import config_json, torch_configs, torch_layout, torch_positions
from vit_jax.pretrained.array_sizes import PATCHES, ArraySizes
from vit_jax.pretrained.encoder_names import READ_ONLY, Encoder, describe, find_encoder
from vit_jax.pretrained.metadata import EMPTY, Metadata
from vit_jax.pretrained.torch_preprocessing import OWN_KEY, own_record

FILE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
CONFIG, PREPROCESSOR = 'config.json', 'preprocessor_config.json'
log = logging.getLogger('vit_jax')


def read_safetensors(
  shards: Sequence[AnyPath],
  metadata: Metadata,
  *,
  num_heads: int | None = None,
  num_patches: int | None = None,
) -> tuple[dict[str, np.ndarray], str]:
  """Read a model one array at a time. Return ({canonical name: array}, 'timm' or 'hf').

  Args:
    shards: the files that together hold the model.
    metadata: metadata from the config.json.
    num_heads: number of attention heads. None: the number in `metadata`, or else the usual one for
      the width.
    num_patches: number of patches that have a position. None: unknown.

  Raises:
    InputError: a file is damaged, or holds a model that `create_model` cannot build.
  """
  path = shards[0]
  names = [name for shard in shards for name in _array_names(shard)]
  kind, prefix, encoder_names, left_out = _find_encoder(names, path)
  width = _hidden_dim(shards, torch_layout.patch_kernel_name(kind, prefix))
  num_heads = num_heads or metadata.num_heads or _usual_num_heads(path, width)
  tensors = _read_tensors(shards, encoder_names)
  try:
    arrays = torch_layout.from_torch(tensors, kind, prefix, num_heads)
  except InputError as e:
    raise InputError(f'Cannot load {path}: {e}') from e
  _report_left_out(left_out, prefix, shards)
  if metadata.image_size and PATCHES in arrays:
    rows, columns = ArraySizes(arrays).grid(metadata.image_size)
    num_patches = rows * columns
  torch_positions.read_positions(arrays, num_patches)
  return arrays, kind


def read_metadata(path: AnyPath) -> Metadata:
  """Read the config in the file's metadata, or in the config.json beside the file.

  Raises:
    InputError: the file or its config is damaged.
  """
  with _open(path) as f:
    text = (f.metadata() or {}).get('config')
  config, preprocessor = path.with_name(CONFIG), path.with_name(PREPROCESSOR)
  if text is None and config.is_file():
    path, text = config, config.read_bytes()
  prepared = EMPTY
  if preprocessor.is_file():
    prepared = config_json.read_preprocessor(preprocessor.read_bytes(), preprocessor)
  return config_json.read_config('{}' if text is None else text, path, prepared)


def shard_names(index: AnyPath) -> list[str]:
  """Return the file names in an index of Hugging Face.

  Raises:
    InputError: the file is not an index of safetensors files.
  """
  try:
    names = sorted(set(json.loads(index.read_text())['weight_map'].values()))
    if not names or any(pathlib.PurePath(name).name != name for name in names):
      raise ValueError('it does not list file names')
    return names
  except (OSError, ValueError, KeyError, AttributeError, TypeError) as e:
    raise InputError(
      f'Cannot read {index} as an index of safetensors files ({e}). '
      f'{remedy(e, "Download it again.")}'
    ) from e


def write_safetensors(
  arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str], kind: str, metadata: Metadata
) -> None:
  """Write {canonical name: array} with a config.json.

  Args:
    arrays: {canonical name: array}.
    path: a directory, which gets model.safetensors, config.json and, for hf,
      preprocessor_config.json, or a .safetensors file, which keeps the config in its metadata.
    kind: 'timm' or 'hf'.
    metadata: activation, norm_eps, image_size (needed for a grid that is not square), class_names.

  Raises:
    InputError: the format cannot hold the model, or the path cannot be written.
  """
  from safetensors import SafetensorError
  from safetensors.numpy import save_file

  if kind == 'timm':
    tensors, texts = _to_timm(arrays, metadata)
  else:
    tensors, texts = _to_hf(arrays, metadata)
  path = local_path(path)
  with contextlib.ExitStack() as stack:  # all files are written before any is replaced
    if path.suffix != '.safetensors':
      for name, text in texts.items():
        stack.enter_context(replacing(path / name)).write_text(text)
      path = path / FILE
    temporary = stack.enter_context(replacing(path))
    try:
      save_file(tensors, temporary, metadata={'format': 'pt', 'config': texts[CONFIG]})
    except SafetensorError as e:
      raise InputError(f'Cannot write {path}: {e}. Choose another path.') from e


def _to_timm(
  arrays: Mapping[str, np.ndarray], metadata: Metadata
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Return timm's arrays, and {file name: text} of its config."""
  arrays_with_rows, no_embed_class = torch_positions.write_positions(arrays)
  config = torch_configs.timm_config(arrays, metadata, no_embed_class)
  config[OWN_KEY] = own_record(metadata)
  return torch_layout.to_torch(arrays_with_rows, 'timm'), {CONFIG: _json_text(config)}


def _to_hf(
  arrays: Mapping[str, np.ndarray], metadata: Metadata
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Return Hugging Face's arrays, and {file name: text} of its configs."""
  config = torch_configs.hf_config(arrays, metadata)
  is_vit = config['model_type'] == 'vit'
  tensors = torch_layout.to_torch(arrays, 'vit' if is_vit else 'dinov2')
  if not is_vit:  # transformers expects this array, but only masked pretraining uses it
    tensors['embeddings.mask_token'] = np.zeros((1, config['hidden_size']), np.float32)
  if 'id2label' in config:
    tensors = {k if k.startswith('classifier.') else f'vit.{k}': v for k, v in tensors.items()}
  preprocessor = torch_configs.hf_preprocessor(config, metadata)
  preprocessor[OWN_KEY] = own_record(metadata)
  if metadata.says_how_to_use:  # a single file has no preprocessor_config.json
    config[OWN_KEY] = own_record(metadata)
  return tensors, {CONFIG: _json_text(config), PREPROCESSOR: _json_text(preprocessor)}


def _json_text(config: Mapping[str, Any]) -> str:
  return json.dumps(config, indent=2) + '\n'


def _open(path: AnyPath) -> Any:
  """Return an open safetensors file, to use in a `with` statement."""
  from safetensors import SafetensorError, safe_open

  try:
    return safe_open(path, framework='np')
  except FileNotFoundError:
    raise InputError(f'Cannot read {path}: no such file. Check the path.') from None
  except (SafetensorError, OSError) as e:
    raise InputError(
      f'Cannot read {path} as a safetensors file: {e}. {remedy(e, "Download it again.")}'
    ) from e


def _array_names(path: AnyPath) -> list[str]:
  with _open(path) as f:
    return list(f.keys())


def _hidden_dim(shards: Sequence[AnyPath], patch_kernel: str) -> int:
  """Return the width of the model, from the shape of its patch embedding's kernel."""
  for shard in shards:
    with _open(shard) as f:
      if patch_kernel in f.keys():  # noqa: SIM118 (the file is not iterable)
        return next(iter(f.get_slice(patch_kernel).get_shape()), 0)
  raise InputError(f'Cannot load {shards[0]}: {patch_kernel} is missing. Download it again.')


def _usual_num_heads(path: AnyPath, width: int) -> int:
  for size in VARIANTS.values():
    if size.hidden_dim == width:
      return size.num_heads
  raise InputError(
    f'{path} does not record its number of attention heads, and no usual number is known for width '
    f'{width}. Give num_heads, or put its config.json beside it. On the command line, num_heads is '
    '--num_heads=N or --override=num_heads=N.'
  )


def _find_encoder(names: Sequence[str], path: AnyPath) -> Encoder:
  """Return the encoder in the file `path`; raise InputError if `create_model` cannot build one."""
  try:
    encoder = find_encoder(names)
  except InputError as e:
    raise InputError(f'Cannot load {path}: {e}') from e
  if encoder is None:
    raise InputError(
      f"Cannot load {path}: it has neither timm's nor Hugging Face's names of a ViT or DINOv2, but "
      f'names such as {", ".join(names[:3])}. Give a checkpoint of a Vision Transformer.'
    )
  if reason := torch_layout.unsupported_part(encoder.names.values()):
    raise InputError(f'Cannot load {path}, because create_model cannot build its model: {reason}.')
  return encoder


def _read_tensors(
  shards: Sequence[AnyPath], names: Mapping[str, str]
) -> Iterator[tuple[str, np.ndarray]]:
  """Yield the arrays of `names`, {name in the file: new name}, under their new names."""
  for shard in shards:
    with _open(shard) as f:
      for name in f.keys():  # noqa: SIM118
        if name in names:
          yield names[name], f.get_tensor(name)


def _report_left_out(names: Sequence[str], prefix: str, shards: Sequence[AnyPath]) -> None:
  """Warn about the arrays that were not read."""
  if all(name.endswith('mask_token') for name in names):
    for name, tensor in _read_tensors(shards, dict(zip(names, names))):
      if tensor.any():  # transformers writes zeros where it has no mask token
        log.warning('%s: Dropped %s, which only masked pretraining uses.', shards[0], name)
  else:
    encoder = f'the encoder {prefix}*' if prefix else 'the encoder'
    log.warning(READ_ONLY, shards[0], encoder, describe(names, prefix))
