"""Every format of checkpoints, by one name each: npz, timm, hf, orbax."""

from collections.abc import Iterator, Mapping
import contextlib
import logging
import os
import pathlib
import tempfile
from typing import NamedTuple
import urllib.parse

from etils import epath
import jax.numpy as jnp
import numpy as np

from vit_jax import files
from vit_jax.errors import InputError, shortlist
from vit_jax.pretrained import npz, orbax, safetensors
from vit_jax.pretrained.metadata import Metadata

log = logging.getLogger('vit_jax')

_PRETEXT = ('mask_token', 'patch_head/')  # of vit_jax.models.masked_patches
_SUFFIXES = ('.npz', '.safetensors', '.bin', '.pth', '.pt')  # of files; else a directory
FORMATS = ('npz', 'timm', 'hf', 'orbax')
PUBLISHED = Metadata(activation='gelu_tanh', norm_eps=1e-6)  # of models whose files do not say


class Checkpoint(NamedTuple):
  """What a file holds: {canonical name: float32 array}, and what it says besides."""

  arrays: dict[str, np.ndarray]
  metadata: Metadata


class _Found(NamedTuple):
  """Where a checkpoint lies: its format, its files or its directory, what it says of itself."""

  kind: str  # 'npz', 'safetensors' or 'orbax'
  paths: list[pathlib.Path]
  metadata: Metadata = Metadata()


def read_arrays(path: str | os.PathLike, *, num_heads: int | None = None) -> dict[str, np.ndarray]:
  """Reads a checkpoint of any format, local or remote, into {canonical name: float32 array}.

  Canonical names are those of the published npz files in linen's spelling. See
  `read_checkpoint`.
  """
  return read_checkpoint(path, num_heads=num_heads).arrays


def read_class_names(path: str | os.PathLike) -> list[str] | None:
  """The names of the classes in the order of the head's outputs; None where the file has none."""
  with _found(path) as found:
    return found.metadata.class_names


def read_checkpoint(
  path: str | os.PathLike, *, num_heads: int | None = None, num_patches: int | None = None
) -> Checkpoint:
  """Reads a checkpoint, holding it in memory once.

  Args:
    path: a .npz or .safetensors file; a directory with model.safetensors, or its shards, and
      config.json; a training run's workdir, its checkpoints/ or the directory of a step; what
      `write_arrays` wrote. Also https://, gs:// and what else fsspec can open.
    num_heads: of a .safetensors file; None: as its config.json says, else as usual for its width.
    num_patches: of the grid of positions, where it is known; None: a square one.

  Raises:
    InputError: naming the file, when it is missing, damaged, unknown, or holds a number that is
      not finite.
  """
  with _found(path) as (kind, paths, metadata):
    if kind == 'npz':
      arrays = npz.read_npz(paths[0])
    elif kind == 'orbax':
      arrays = npz.canonical(_without_pretext(orbax.read_orbax(paths[0]), path), path)
    else:
      arrays, kind = safetensors.read_safetensors(
        paths, metadata, num_heads=num_heads, num_patches=num_patches
      )
  for name in arrays:
    arrays[name] = as_float32(arrays[name], path, name)
  if wrong := _not_finite(arrays):
    raise InputError(f'{path} is damaged: not finite in {shortlist(wrong)}')
  return Checkpoint(arrays, metadata._replace(format=kind))


def _without_pretext(arrays, path):
  """Leaves out what a pretext task trains beside the model."""
  rest = {name: array for name, array in arrays.items() if not name.startswith(_PRETEXT)}
  if len(rest) < len(arrays):
    log.warning('%s: what only predicts masked patches is left out', path)
  return rest


def _not_finite(arrays):
  return [name for name, x in arrays.items() if not np.isfinite(x).all()]


def as_float32(array: np.ndarray, path: str | os.PathLike, name: str) -> np.ndarray:
  """Half, bfloat16 and double precision as float32; anything else is an InputError."""
  if array.dtype.kind == 'V' and array.dtype.itemsize == 2:
    array = array.view(jnp.bfloat16)  # as which NumPy saves it, having no name for it
  if array.dtype.name not in ('float32', 'float16', 'bfloat16', 'float64'):
    raise InputError(f'{path}: {name} is {array.dtype}, no floating-point numbers')
  return array.astype(np.float32, copy=False)


def write_arrays(
  arrays: Mapping[str, np.ndarray],
  path: str | os.PathLike,
  format: str | None = None,
  *,
  metadata: Metadata = Metadata(),
  spelling: str = 'pre_linen',
) -> None:
  """Writes {canonical name: array}; `path` is replaced in one piece.

  Args:
    path: .npz: a file. orbax: a directory. timm, hf: a directory, which gets model.safetensors and
      config.json, or a .safetensors file, which keeps the config in its metadata.
    format: 'npz', 'timm', 'hf' or 'orbax'; None: npz for a path that ends so, orbax for one
      without an ending.
    metadata: what the arrays do not tell: activation (default 'gelu_tanh'), norm_eps (default 1e-6),
      image_size (needed for a grid that is not square), class_names, model.
    spelling: of npz names, 'pre_linen' (what the original code and timm read) or 'linen'.

  Raises:
    InputError: for what the format cannot hold, or when it cannot be written.
  """
  format = format_for(path, format)
  arrays = {name: as_float32(x, path, name) for name, x in arrays.items()}
  if wrong := _not_finite(arrays):
    raise InputError(f'{path} is not written: not finite in {shortlist(wrong)}')
  if format == 'npz':
    npz.write_npz(arrays, path, spelling=spelling)
  elif format == 'orbax':
    orbax.write_orbax(arrays, path, metadata)
  else:
    metadata = metadata._replace(
      activation=metadata.activation or PUBLISHED.activation,
      norm_eps=metadata.norm_eps or PUBLISHED.norm_eps,
    )
    safetensors.write_safetensors(arrays, path, format, metadata)


def format_for(path: str | os.PathLike, format: str | None) -> str:
  """`format` if given, else npz or orbax by the ending of `path`.

  Raises:
    InputError: for an unknown format, or when the ending leaves the choice open.
  """
  suffix = pathlib.PurePath(os.fspath(path)).suffix
  if format is None:
    if suffix == '.safetensors':
      raise InputError(f'{path}: safetensors with whose names? Say timm or hf')
    return 'npz' if suffix == '.npz' else 'orbax'
  if format not in FORMATS:
    raise InputError(f'unknown format {format!r}; there are {", ".join(FORMATS)}')
  return format


@contextlib.contextmanager
def _found(path: str | os.PathLike) -> Iterator[_Found]:
  """Finds out what lies at `path`; what is downloaded for it is deleted afterwards."""
  if not files.is_remote(path):
    yield _local(pathlib.Path(path).expanduser())
    return
  address = os.fspath(path).rstrip('/').removesuffix(f'/{safetensors.INDEX}')
  name = pathlib.PurePosixPath(urllib.parse.urlsplit(address).path).name
  is_file = pathlib.PurePath(name).suffix in _SUFFIXES
  with tempfile.TemporaryDirectory(prefix='vit_jax_') as directory:
    directory = pathlib.Path(directory)
    try:
      if is_file:
        yield _remote_file(address, directory / name)
      else:
        yield _remote_directory(address, directory)
    except InputError as e:  # names the address, not the copy
      base = _parent(address) if is_file else address
      raise InputError(str(e).replace(str(directory), base)) from e


def _remote_file(address, target):
  files.download(address, target)
  if target.suffix == '.safetensors':
    _download_configs(_parent(address), target.parent)
  return _local(target)


def _parent(address):
  return address.split('?')[0].rsplit('/', 1)[0]


def _remote_directory(address, directory):
  get = lambda name: _download_if_there(f'{address}/{name}', directory / name)
  if get(safetensors.INDEX):
    for name in safetensors.shard_names(directory / safetensors.INDEX):
      files.download(f'{address}/{name}', directory / name)
  elif not get(safetensors.FILE):
    if address.startswith('http'):
      raise InputError(
        f'{address} holds neither {safetensors.FILE} nor {safetensors.INDEX}; for '
        'another file give its whole address'
      )
    files.check_reachable(address)
    return _directory(epath.Path(address))
  _download_configs(address, directory)
  return _directory(directory)


def _download_configs(address, directory):
  for name in (safetensors.CONFIG, safetensors.PREPROCESSOR):
    _download_if_there(f'{address}/{name}', directory / name)


def _download_if_there(address, target):
  try:
    files.download(address, target)
    return True
  except files.Missing:
    target.unlink()
    return False


def _local(path):
  if path.is_dir():
    return _directory(path)
  if path.name == safetensors.INDEX:
    return _directory(path.parent)
  return _file(path)


def _file(path):
  try:
    with open(path, 'rb') as f:
      start = f.read(64)
  except OSError as e:
    raise InputError(
      f'{path}: {"no such file" if isinstance(e, FileNotFoundError) else e.strerror}'
    ) from None
  what = {'.npz': 'npz file of arrays', '.safetensors': 'safetensors file'}.get(
    path.suffix, 'checkpoint'
  )
  if not start:
    raise InputError(f'{path} is not a readable {what} (it is empty); download it again')
  if start.lstrip()[:1] == b'<':
    raise InputError(f'{path} is not a readable {what} (it is a web page); download it again')
  if start[8:9] == b'{' or path.suffix == '.safetensors':
    return _Found('safetensors', [path], safetensors.read_metadata(path))
  if start[:2] == b'PK' or path.suffix == '.npz':
    return _Found('npz', [path])
  if start[:1] == b'\x80' or path.suffix in ('.bin', '.pth', '.pt'):
    raise InputError(
      f'{path} is a pickle, which can run any code when it is read: convert it to safetensors'
    )
  raise InputError(
    f'{path} is no checkpoint that is known here: .npz, .safetensors, an Orbax directory'
  )


def _directory(path):
  if (path / safetensors.FILE).exists():
    return _file(path / safetensors.FILE)
  if (path / safetensors.INDEX).exists():
    index = path / safetensors.INDEX
    shards = [_file(index.with_name(name)).paths[0] for name in safetensors.shard_names(index)]
    return _Found('safetensors', shards, safetensors.read_metadata(shards[0]))
  if checkpoint := orbax.find(path):
    return _Found('orbax', [checkpoint], orbax.read_metadata(checkpoint))
  pickles = sorted(p.name for p in path.glob('*.bin'))
  if pickles:
    raise InputError(
      f'{path} holds {pickles[0]}, a pickle, which can run any code when it is read:'
      ' convert it to safetensors'
    )
  raise InputError(f'{path} holds no checkpoint: neither {safetensors.FILE} nor one of Orbax')
