"""safetensors files and directories, as timm and Hugging Face write them.

The format has no checksum of the arrays: a flipped bit in a number cannot be seen, unless it makes
it infinite or NaN. Damage to the header, and a file cut short or grown, are found.
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
import logging
import os
import pathlib

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vit_jax.errors import InputError
from vit_jax.files import local_path, replacing
from vit_jax.models.sizes import VARIANTS
from vit_jax.pretrained import config_json, torch_layout
from vit_jax.pretrained.metadata import Metadata

FILE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
CONFIG, PREPROCESSOR = 'config.json', 'preprocessor_config.json'
log = logging.getLogger('vit_jax')


def read_safetensors(
  shards: list[pathlib.Path],
  metadata: Metadata,
  *,
  num_heads: int | None = None,
  num_patches: int | None = None,
) -> tuple[dict[str, np.ndarray], str]:
  """Reads tensors one at a time: ({canonical name: array}, 'timm' or 'hf').

  Args:
    shards: the files that together hold the model.
    metadata: of its config.json.
    num_heads: None: as `metadata` says, else as usual for the width.
    num_patches: of the grid of positions, where it is known.

  Raises:
    InputError: a file is damaged; or it is of no model of ours.
  """
  path = shards[0]
  names = [name for shard in shards for name in _names(shard)]
  found = torch_layout.dialect(names)
  if found is None:
    raise InputError(
      f"{path} has neither timm's nor Hugging Face's names of a Vision "
      f'Transformer ({", ".join(names[:3])}, ...)'
    )
  if reason := torch_layout.misfit(names):
    raise InputError(f'{path} is of another model: {reason}')
  kind, prefix = found
  width = _width(shards, kind, prefix)
  heads = num_heads or metadata.num_heads or _usual_heads(path, width)
  try:
    arrays = torch_layout.from_torch(_tensors(shards), kind, prefix, heads)
  except InputError as e:
    raise InputError(f'{path}: {e}') from e
  if metadata.image_size and 'embedding/kernel' in arrays:
    p, q = arrays['embedding/kernel'].shape[:2]
    num_patches = metadata.image_size[0] // p * (metadata.image_size[1] // q)
  torch_layout.read_positions(arrays, num_patches)
  return arrays, kind


def read_metadata(path: pathlib.Path) -> Metadata:
  """What is known of the model: from the config in the metadata, or config.json beside it."""
  with _open(path) as f:
    text = (f.metadata() or {}).get('config')
  config, preprocessor = path.with_name(CONFIG), path.with_name(PREPROCESSOR)
  if text is None and config.is_file():
    path, text = config, config.read_bytes()
  metadata = Metadata() if text is None else config_json.read_config(text, path)
  if preprocessor.is_file():
    metadata = metadata._replace(
      **config_json.read_preprocessor(preprocessor.read_bytes(), preprocessor)
    )
  return metadata


def shard_names(index: pathlib.Path) -> list[str]:
  """The names of the files that an index of Hugging Face lists.

  Raises:
    InputError: the index is no such JSON.
  """
  try:
    names = sorted(set(json.loads(index.read_text())['weight_map'].values()))
    if not names or any(pathlib.PurePath(name).name != name for name in names):
      raise ValueError('no names of files')
    return names
  except (OSError, ValueError, KeyError, AttributeError, TypeError) as e:
    raise InputError(f'{index} is not a readable index of safetensors files ({e})') from e


def _open(path):
  try:
    return safe_open(path, framework='np')
  except FileNotFoundError:
    raise InputError(f'{path}: no such file') from None
  except (SafetensorError, OSError) as e:
    raise InputError(f'{path} is not a readable safetensors file ({e}); download it again') from e


def _names(path):
  with _open(path) as f:
    return list(f.keys())


def _width(shards, kind, prefix):
  name = prefix + {'timm': 'patch_embed.proj', 'hf': 'embeddings.patch_embeddings.projection'}[kind]
  for shard in shards:
    with _open(shard) as f:
      if f'{name}.weight' in f.keys():
        return f.get_slice(f'{name}.weight').get_shape()[0]
  raise InputError(f'{shards[0]} lacks {name}.weight')


def _usual_heads(path, width):
  for size in VARIANTS.values():
    if size.hidden_dim == width:
      return size.num_heads
  raise InputError(
    f'{path} does not tell its number of attention heads, and width {width} is not '
    'a usual one: give num_heads, or put its config.json beside it'
  )


def _tensors(shards) -> Iterator[tuple[str, np.ndarray]]:
  for shard in shards:
    with _open(shard) as f:
      for name in f.keys():
        tensor = f.get_tensor(name)
        if not name.endswith('mask_token'):
          yield name, tensor
        elif tensor.any():
          log.warning('%s: %s is left out, which only masked pretraining uses', shard, name)


def write_safetensors(
  arrays: Mapping[str, np.ndarray], path: str | os.PathLike, kind: str, metadata: Metadata
) -> None:
  """Writes {canonical name: array} with a config.json.

  Args:
    path: a directory, which gets model.safetensors, config.json and, for hf,
      preprocessor_config.json; or a .safetensors file, which holds the config in its metadata.
    kind: 'timm' or 'hf'.
    metadata: activation and norm_eps; image_size, for a grid that is not square; class_names.

  Raises:
    InputError: for what the format cannot hold, or when it cannot be written.
  """
  if kind == 'timm':
    with_rows, no_embed_class = torch_layout.write_positions(arrays)
    config = config_json.timm_config(arrays, metadata, no_embed_class)
    tensors = torch_layout.to_torch(with_rows, 'timm')
  else:
    config = config_json.hf_config(arrays, metadata)
    is_vit = config['model_type'] == 'vit'
    tensors = torch_layout.to_torch(arrays, 'vit' if is_vit else 'dinov2')
    if not is_vit:  # asked for, and used in masked pretraining alone
      tensors['embeddings.mask_token'] = np.zeros((1, config['hidden_size']), np.float32)
    if 'id2label' in config:
      tensors = {k if k.startswith('classifier.') else f'vit.{k}': v for k, v in tensors.items()}
  texts = {CONFIG: json.dumps(config, indent=2) + '\n'}
  if kind == 'hf':
    preprocessor = config_json.hf_preprocessor(config, metadata)
    texts[PREPROCESSOR] = json.dumps(preprocessor, indent=2) + '\n'
  path = local_path(path)
  with contextlib.ExitStack() as stack:  # all files are written before the first is replaced
    if path.suffix != '.safetensors':
      for name, text in texts.items():
        stack.enter_context(replacing(path / name)).write_text(text)
      path = path / FILE
    try:
      save_file(
        tensors,
        stack.enter_context(replacing(path)),
        metadata={'format': 'pt', 'config': texts[CONFIG]},
      )
    except SafetensorError as e:
      raise InputError(f'cannot write {path} ({e})') from e
