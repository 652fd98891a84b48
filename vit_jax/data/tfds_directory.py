"""Find the directory of a dataset that TFDS has prepared, or explain why it is missing."""

from __future__ import annotations

import fnmatch
import json
import logging
import os
import re
from typing import TYPE_CHECKING

from vit_jax.data import digits
from vit_jax.data.prepare import MANUAL_SUBDIR, builder_class, find_data_dir, manual_download
from vit_jax.errors import InputError, last_line, remedy, unknown

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

log = logging.getLogger('vit_jax')

_NAME = re.compile(
  r'(?P<name>\w+)(?:/(?P<config>(?!\d+\.\d+\.\d+$)[\w.-]+?))?'
  r'(?:[:/](?P<version>[\d*]+\.[\d*]+\.[\d*]+))?'
)
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
  if directory is None and name == 'digits':
    _prepare_digits(data_dir)
    directory = _newest(root, version)
  if directory is None:
    raise _missing(dataset, name, config, data_dir)
  return directory


def read_info(directory: str) -> tfds.core.DatasetInfo:
  """Return the description of the dataset in a directory. Raise InputError if it is damaged."""
  from google.protobuf import json_format
  import tensorflow_datasets as tfds

  try:
    return tfds.builder_from_directory(directory).info
  except (OSError, ValueError, KeyError, json_format.ParseError) as e:
    raise InputError(
      f'Cannot read the description of the dataset in {directory}: {" ".join(str(e).split())}. '
      f'{remedy(e, "Prepare the dataset again.")}'
    ) from e


def _newest(directory: str, version: str | None) -> str | None:
  """Return the directory of the newest version that matches a version with numbers or *."""
  versions = [v for v in _versions(directory) if fnmatch.fnmatchcase(v, version or '*')]
  return os.path.join(directory, versions[-1]) if versions else None


def _versions(directory: str) -> list[str]:
  """Return the complete versions in the directory, oldest first."""
  names = os.listdir(directory) if os.path.isdir(directory) else []
  complete = [
    name
    for name in names
    if _VERSION.fullmatch(name)
    and os.path.exists(os.path.join(directory, name, 'dataset_info.json'))
  ]
  return sorted(complete, key=lambda name: [int(x) for x in name.split('.')])


def _default_config(root: str) -> str | None:
  """Return the default config, which TFDS records when it prepares a dataset with configs."""
  path = os.path.join(root, '.config', 'metadata.json')
  if not os.path.exists(path):
    return None
  try:
    with open(path, 'rb') as f:
      return json.load(f)['default_config_name']
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
  if os.path.isdir(root):
    if versions := _versions(directory):
      return InputError(
        f'{dataset} is not in {directory}. Prepared versions: {", ".join(versions)}.'
      )
    configs = [c for c in sorted(os.listdir(root)) if _versions(os.path.join(root, c))]
    if configs:
      prepared = ', '.join(f'{name}/{c}' for c in configs)
      return InputError(f'{dataset} is not in {root}. Prepared datasets: {prepared}.')
  configs = getattr(builder_class(name), 'builder_configs', {})
  if config and configs and config not in configs:
    return unknown(f'{name} config', config, configs)
  command = f'python -m vit_jax.tools.prepare {dataset} --data_dir={data_dir}'
  message = f'The dataset {dataset} is not prepared in {data_dir}. Prepare it with `{command}`.'
  manual = manual_download(name, os.path.join(data_dir, MANUAL_SUBDIR))
  return InputError(f'{message} {manual}' if manual else message)
