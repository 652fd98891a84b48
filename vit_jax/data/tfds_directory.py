"""Find the directory of a dataset that TFDS has prepared, or explain why it is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
import contextlib
import fnmatch
import json
import logging
import os
import pathlib
import re
import tempfile
from typing import TYPE_CHECKING, Any

from vit_jax.data import digits, storage
from vit_jax.data.prepare import MANUAL_SUBDIR, builder_class, find_data_dir, manual_download
from vit_jax.errors import InputError, last_line, remedy, shortlist, unknown
from vit_jax.files import is_remote

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

log = logging.getLogger('vit_jax')

_NAME = re.compile(
  r'(?P<name>\w+)(?:/(?P<config>(?!\d+\.\d+\.\d+$)[\w.-]+?))?'
  r'(?:[:/](?P<version>[\d*]+\.[\d*]+\.[\d*]+))?'
)
_FEATURES = 'features.json'
_VERSION = re.compile(r'\d+\.\d+\.\d+')


def find_directory(dataset: str, data_dir: str | None = None) -> str:
  """Return the directory of a prepared TFDS dataset, .../name/version.

  Only the files are needed, not the code that prepared them. 'digits' is prepared if it is missing.

  Args:
    dataset: 'name' or 'name/config', either with ':version'. Without a version, the newest one is
      chosen; without a config, the default of the dataset.
    data_dir: directory of TFDS datasets. Defaults to `find_data_dir`.

  Raises:
    InputError: the dataset is unknown, or is not prepared. The message says how to prepare it.
  """
  data_dir = find_data_dir(data_dir)
  match = _NAME.fullmatch(dataset)
  if not match:
    raise InputError(
      f'{dataset!r} is neither a dataset name (name[/config][:version]) nor a folder. '
      f'For a folder, write ./{dataset}.'
    )
  name, config, version = match['name'], match['config'], match['version']
  root = os.path.join(data_dir, name)
  directory = _newest(os.path.join(root, config or _default_config(root) or ''), version)
  if directory is None and name == 'digits' and not is_remote(data_dir):
    _prepare_digits(data_dir)
    directory = _newest(root, version)
  if directory is None:
    raise _missing(dataset, name, config, data_dir)
  return directory


def read_info(directory: str) -> tfds.core.DatasetInfo:
  """Return the description of the dataset in a directory. Raise InputError if it is damaged.

  If the directory is remote, the paths in the description are meaningless, but not the names.
  """
  from google.protobuf import json_format
  import tensorflow_datasets as tfds

  with _local_description(directory) as local:
    try:
      return tfds.builder_from_directory(local).info
    except (OSError, ValueError, KeyError, json_format.ParseError) as e:
      message = ' '.join(str(e).split()).replace(local, directory)
      raise InputError(
        f'Cannot read the description of the dataset in {directory}: {message}. '
        f'{remedy(e, "Prepare the dataset again.")}'
      ) from e


@contextlib.contextmanager
def _local_description(directory: str) -> Iterator[str]:
  """Yield a local directory with the files that describe the dataset in a directory."""
  if not is_remote(directory):
    yield directory
    return
  with tempfile.TemporaryDirectory() as local:

    def copy(names: Iterable[str]) -> None:
      with ThreadPoolExecutor() as pool:
        contents = pool.map(lambda name: storage.read(f'{directory}/{name}'), names)
        for name, content in zip(names, contents):
          if content is not None:
            pathlib.Path(local, name).write_bytes(content)

    copy(('dataset_info.json', _FEATURES))
    with contextlib.suppress(OSError, ValueError, AttributeError):  # TFDS reports what is wrong
      copy(list(_label_files(json.loads(pathlib.Path(local, _FEATURES).read_bytes()))))
    yield local


def _label_files(feature: dict[str, Any], name: str = '') -> Iterator[str]:
  """Yield the names of the files that hold class names, given the content of features.json."""
  if 'classLabel' in feature:
    yield f'{name}.labels.txt'
  for key, part in feature.get('featuresDict', {}).get('features', {}).items():
    key = key.replace('/', '.')
    yield from _label_files(part, f'{name}-{key}' if name else key)
  if 'sequence' in feature:
    yield from _label_files(feature['sequence'].get('feature', {}), name)


def _newest(directory: str, version: str | None) -> str | None:
  """Return the directory of the newest version that matches a version with numbers or *."""
  if version and _VERSION.fullmatch(version):  # not every web server lists its directories
    complete = storage.exists(os.path.join(directory, version, 'dataset_info.json'))
    return os.path.join(directory, version) if complete else None
  versions = [v for v in _versions(directory) if fnmatch.fnmatchcase(v, version or '*')]
  return os.path.join(directory, versions[-1]) if versions else None


def _versions(directory: str) -> list[str]:
  """Return the complete versions in the directory, oldest first."""
  complete = [
    name
    for name in storage.names(directory)
    if _VERSION.fullmatch(name)
    and storage.exists(os.path.join(directory, name, 'dataset_info.json'))
  ]
  return sorted(complete, key=lambda name: [int(x) for x in name.split('.')])


def _default_config(root: str) -> str | None:
  """Return the default config, which TFDS records when it prepares a dataset with configs."""
  path = os.path.join(root, '.config', 'metadata.json')
  content = storage.read(path)
  if content is None:
    return None
  try:
    return json.loads(content)['default_config_name']
  except (ValueError, KeyError, TypeError) as e:
    log.warning('Cannot read %s: %s. Name the config, as in NAME/CONFIG.', path, last_line(e))
    return None


def _prepare_digits(data_dir: str) -> None:
  try:
    digits.prepare(data_dir)
  except OSError as e:
    raise InputError(
      f'Cannot write the dataset digits to {data_dir}: {e}. Choose another data_dir.'
    ) from e


def _missing(dataset: str, name: str, config: str | None, data_dir: str) -> InputError:
  """Return the error for a missing dataset. Raise InputError if TFDS does not know the name."""
  root = os.path.join(data_dir, name)
  directory = os.path.join(root, config or _default_config(root) or '')
  if names := storage.names(root):
    if versions := _versions(directory):
      return InputError(
        f'{dataset} is not in {directory}. Prepared versions: {", ".join(versions)}.'
      )
    if configs := [c for c in sorted(names) if _versions(os.path.join(root, c))]:
      prepared = ', '.join(f'{name}/{c}' for c in configs)
      return InputError(f'{dataset} is not in {root}. Prepared datasets: {prepared}.')
  if is_remote(data_dir):
    return _missing_remote(dataset, name, data_dir)
  configs = getattr(builder_class(name), 'builder_configs', {})
  if config and configs and config not in configs:
    return unknown(f'{name} config', config, configs)
  command = f'python -m vit_jax.tools.prepare {dataset} --data_dir={data_dir}'
  message = f'The dataset {dataset} is not prepared in {data_dir}. Prepare it with `{command}`.'
  manual = manual_download(name, os.path.join(data_dir, MANUAL_SUBDIR))
  return InputError(f'{message} {manual}' if manual else message)


def _missing_remote(dataset: str, name: str, data_dir: str) -> InputError:
  """Return the error for a dataset that is missing in a remote directory."""
  message = f'The dataset {dataset} is not in {data_dir}.'
  if found := storage.names(data_dir):
    message += f' It holds {shortlist(sorted(found))}.'
  else:
    message += (
      ' Nothing is listed there. If a web server does not list its directories, give the version, '
      f'such as {name}:1.0.0.'
    )
  return InputError(
    f'{message} To prepare a dataset, run `python -m vit_jax.tools.prepare {dataset} '
    f'--file_format=tfrecord` on a disk, and copy the directory {name} to {data_dir}.'
  )
