"""Find the checkpoint at a path or address: its kind, its files and its metadata."""

from collections.abc import Iterator, Sequence
import contextlib
import logging
import os
import pathlib
import tempfile
from typing import NamedTuple
import urllib.parse

from etils import epath

from vit_jax import files
from vit_jax.config.run import find_run
from vit_jax.errors import InputError
from vit_jax.files import AnyPath
from vit_jax.pretrained import orbax, safetensors
from vit_jax.pretrained.metadata import EMPTY, MODEL_FIELDS, USAGE_FIELDS, Metadata
from vit_jax.pretrained.npz import pickle_error

_PICKLES = ('.bin', '.pth', '.pt')
_FILES = ('.npz', '.safetensors', *_PICKLES)  # suffixes of files; other addresses are directories
_KINDS = {'.npz': 'an npz file of arrays', '.safetensors': 'a safetensors file'}

log = logging.getLogger('vit_jax')


class Location(NamedTuple):
  """A checkpoint on the local disk, or in an Orbax directory anywhere."""

  kind: str  # 'npz', 'safetensors' or 'orbax'
  paths: Sequence[AnyPath]  # one file or directory, or the shards of safetensors
  metadata: Metadata = EMPTY


@contextlib.contextmanager
def locate(path: str | os.PathLike[str]) -> Iterator[Location]:
  """Yield the checkpoint at a path or address. Downloaded files are deleted afterwards.

  Raises:
    InputError: there is no checkpoint, or it is damaged or of an unknown kind.
  """
  if not files.is_remote(path):
    yield _local(files.user_path(path))
    return
  address = os.fspath(path).rstrip('/').removesuffix(f'/{safetensors.INDEX}')
  name = pathlib.PurePosixPath(urllib.parse.urlsplit(address).path).name
  is_file = pathlib.PurePath(name).suffix in _FILES
  with tempfile.TemporaryDirectory(prefix='vit_jax_') as temporary:
    directory = pathlib.Path(temporary)
    try:
      if is_file:
        yield _remote_file(address, directory / name)
      else:
        yield _remote_directory(address, directory)
    except files.CannotStore:
      raise
    except InputError as e:  # name the address, not the temporary copy
      base = _parent(address) if is_file else address
      raise InputError(str(e).replace(temporary, base)) from e


def _remote_file(address: str, target: pathlib.Path) -> Location:
  files.download(address, target)
  if target.suffix == '.safetensors':
    _download_configs(_parent(address), target.parent)
  return _local(target)


def _parent(address: str) -> str:
  return address.split('?')[0].rsplit('/', 1)[0]


def _remote_directory(address: str, directory: pathlib.Path) -> Location:
  def get(name: str) -> bool:
    return _download_if_exists(f'{address}/{name}', directory / name)

  if get(safetensors.INDEX):
    for name in safetensors.shard_names(directory / safetensors.INDEX):
      files.download(f'{address}/{name}', directory / name)
  elif not get(safetensors.FILE):
    if address.startswith('http'):
      raise InputError(
        f'{address} has neither {safetensors.FILE} nor {safetensors.INDEX}. To load another file, '
        'give its whole address.'
      )
    files.check_reachable(address)
    return _directory(epath.Path(address))
  _download_configs(address, directory)
  return _directory(directory)


def _download_configs(address: str, directory: pathlib.Path) -> None:
  for name in (safetensors.CONFIG, safetensors.PREPROCESSOR):
    _download_if_exists(f'{address}/{name}', directory / name)


def _download_if_exists(address: str, target: pathlib.Path) -> bool:
  try:
    files.download(address, target)
    return True
  except files.Missing:
    return False


def _local(path: pathlib.Path) -> Location:
  if path.is_dir():
    return _directory(path)
  if path.name == safetensors.INDEX:
    return _directory(path.parent)
  return _file(path)


def _file(path: AnyPath) -> Location:
  """Return the location of a single file. Its first bytes or its suffix identify its kind."""
  try:
    with open(path, 'rb') as f:
      start = f.read(64)
  except FileNotFoundError:
    raise InputError(f'Cannot read {path}: no such file. Check the path.') from None
  except OSError as e:
    raise InputError(f'Cannot read {path}: {e.strerror}.') from None
  kind = _KINDS.get(path.suffix, 'a checkpoint')
  if not start:
    raise InputError(f'Cannot read {path} as {kind}: it is empty. Download it again.')
  if start.lstrip()[:1] == b'<':
    raise InputError(f'Cannot read {path} as {kind}: it is a web page. Download it again.')
  if start[8:9] == b'{' or path.suffix == '.safetensors':
    return Location('safetensors', [path], safetensors.read_metadata(path))
  if start[:2] == b'PK' or path.suffix == '.npz':
    return Location('npz', [path])
  if start[:1] == b'\x80' or path.suffix in _PICKLES:
    raise pickle_error(path)
  raise InputError(
    f'{path} is not a checkpoint of a known format. Give an npz file, a safetensors file or an '
    'Orbax directory.'
  )


def _directory(path: AnyPath) -> Location:
  if (path / safetensors.FILE).exists():
    return _file(path / safetensors.FILE)
  if (path / safetensors.INDEX).exists():
    index = path / safetensors.INDEX
    shards = [_file(index.with_name(name)).paths[0] for name in safetensors.shard_names(index)]
    return Location('safetensors', shards, safetensors.read_metadata(shards[0]))
  if checkpoint := orbax.find_checkpoint(path):
    metadata = orbax.read_metadata(checkpoint).updated(_run_metadata(checkpoint))
    return Location('orbax', [checkpoint], metadata)
  if pickles := sorted(path.glob('*.bin')):
    raise pickle_error(pickles[0])
  raise InputError(
    f'{path} has no checkpoint. Give a directory with {safetensors.FILE}, or one that a training '
    'run or save_params wrote.'
  )


def _run_metadata(checkpoint: AnyPath) -> Metadata:
  """Return the metadata in the config.json of a training run.

  Checkpoints of earlier versions do not have all of it themselves.
  """
  try:
    run = find_run(checkpoint)
  except InputError as e:
    log.warning('%s The checkpoint is read without it.', e)
    return EMPTY
  if run is None:
    return EMPTY
  recorded = {k: run.config[k] for k in (*MODEL_FIELDS, *USAGE_FIELDS) if k in run.config}
  return Metadata(image_size=(run.config['image_size'],) * 2, **recorded)
