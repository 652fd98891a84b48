"""Where the data sets that TFDS prepared lie on disk, and what to say when one does not."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import io
import json
import os
import re

from vit_jax.errors import InputError

MANUAL_SUBDIR = os.path.join('downloads', 'manual')  # where TFDS looks for what people fetched
_NAME = re.compile(
  r'(?P<name>\w+)(?:/(?P<config>(?!\d+\.\d+\.\d+$)[\w.-]+?))?'
  r'(?:[:/](?P<version>[\d*]+\.[\d*]+\.[\d*]+))?'
)
_VERSION = re.compile(r'\d+\.\d+\.\d+')
_NOT_IN_TFDS = {
  'imagenet21k': 'ImageNet-21k is not in TFDS (image-net.org gives the images out on request)',
  'jft_300m': 'JFT-300M is not public',
}


def default_data_dir() -> str:
  """Returns $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
  return os.environ.get('TFDS_DATA_DIR', os.path.join('~', 'tensorflow_datasets'))


def find_directory(dataset: str, data_dir: str | None = None) -> str:
  """Returns the directory of a prepared TFDS data set.

  Nothing but the files is looked at, so the code that prepared the data set need not be there.
  'digits' is written when it is missing.

  Args:
    dataset: 'name', 'name/config', either with ':version'; without a version, the newest one
      prepared; without a config, the data set's default.
    data_dir: None means `default_data_dir`.

  Raises:
    InputError: the data set is unknown or not prepared (says how to prepare it).
  """
  data_dir = os.path.expanduser(data_dir or default_data_dir())
  if '://' in data_dir:
    raise InputError(f'data_dir={data_dir} is not a local directory: mount it or copy the data set')
  match = _NAME.fullmatch(dataset)
  if not match:
    raise InputError(
      f'{dataset!r} is neither a data set name (name[/config][:version]) nor a '
      f'folder (write ./{dataset} for one)'
    )
  name, config, version = match['name'], match['config'], match['version']
  root = os.path.join(data_dir, name)
  directory = _newest(os.path.join(root, config or _default_config(root) or ''), version)
  if directory is None and name == 'digits':
    _prepare_digits(data_dir)
    directory = _newest(root, version)
  if directory is None:
    raise InputError(_why_missing(dataset, name, config, version, data_dir))
  return directory


def read_info(directory: str):
  """Returns the tfds.core.DatasetInfo of a directory that `find` gave; raises InputError."""
  from google.protobuf import json_format
  import tensorflow_datasets as tfds

  try:
    return tfds.builder_from_directory(directory).info
  except (OSError, ValueError, KeyError, json_format.ParseError) as e:
    raise InputError(
      f'the description of the data set in {directory} cannot be read, prepare it '
      f'again: {" ".join(str(e).split())}'
    ) from e


def _newest(directory: str, version: str | None) -> str | None:
  """Returns the directory of the newest version that fits 'x.y.z' (numbers or *)."""
  versions = [v for v in _versions(directory) if fnmatch.fnmatchcase(v, version or '*')]
  return os.path.join(directory, versions[-1]) if versions else None


def _versions(directory: str) -> list[str]:
  """Returns the complete versions in the directory, oldest first."""
  names = os.listdir(directory) if os.path.isdir(directory) else []
  return sorted(
    (
      n
      for n in names
      if _VERSION.fullmatch(n) and os.path.exists(os.path.join(directory, n, 'dataset_info.json'))
    ),
    key=lambda n: [int(x) for x in n.split('.')],
  )


def _default_config(root: str) -> str | None:
  """Returns the config that TFDS noted as the default beside the configs it prepared."""
  path = os.path.join(root, '.config', 'metadata.json')
  if not os.path.exists(path):
    return None
  with open(path) as f:
    return json.load(f)['default_config_name']


def _prepare_digits(data_dir: str) -> None:
  from vit_jax.data import digits  # imports TFDS and scikit-learn

  try:
    digits.prepare(data_dir)
  except OSError as e:
    raise InputError(f'the data set digits cannot be written to {data_dir}: {e}') from e


def builder_class(name: str):
  """Returns the TFDS builder class of that name; None when its code needs TensorFlow.

  Raises:
    InputError: no data set has that name (offers those that are spelled like it).
  """
  import tensorflow_datasets as tfds

  if name == 'digits':
    from vit_jax.data import digits

    return digits.Digits
  known = tfds.list_builders(with_community_datasets=False) + ['digits']
  if name not in known:
    if name in _NOT_IN_TFDS:
      raise InputError(
        f'{_NOT_IN_TFDS[name]}: give the path of a folder with train/<class>/ and '
        'val/<class>/, or prepare it with a TFDS builder of your own'
      )
    close = difflib.get_close_matches(name, known, n=3)
    hint = (
      f'did you mean {" or ".join(close)}?'
      if close
      else ('see https://www.tensorflow.org/datasets/catalog')
    )
    raise InputError(
      f'there is no data set {name!r}; {hint} (or give a path such as ./{name} '
      'for a folder with train/<class>/ and val/<class>/)'
    )
  try:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
      return tfds.builder_cls(name)  # prints a banner when TensorFlow is missing
  except ImportError:
    return None


def manual_download(name: str, manual_dir: str) -> str | None:
  """Returns which files people must put into manual_dir before `name` can be prepared, or None."""
  instructions = getattr(builder_class(name), 'MANUAL_DOWNLOAD_INSTRUCTIONS', None)
  if not instructions:
    return None
  return f'files that you must first download into {manual_dir}: ' + ' '.join(
    instructions.split()
  ).rstrip('.')


def _why_missing(
  dataset: str, name: str, config: str | None, version: str | None, data_dir: str
) -> str:
  """Returns the sentence for a data set that is not there; raises when nobody knows it."""
  root = os.path.join(data_dir, name)
  directory = os.path.join(root, config or _default_config(root) or '')
  if os.path.isdir(root):
    if _versions(directory):
      return f'{dataset} is not in {directory}; the versions prepared there are ' + ', '.join(
        _versions(directory)
      )
    configs = [c for c in sorted(os.listdir(root)) if _versions(os.path.join(root, c))]
    if configs:
      return f'{dataset} is not in {root}; what is prepared there is ' + ', '.join(
        f'{name}/{c}' for c in configs
      )
  configs = getattr(builder_class(name), 'builder_configs', {})
  if config and configs and config not in configs:
    return f'the data set {name} has no config {config!r}; it has {", ".join(configs)}'
  command = f'python -m vit_jax.tools.prepare {dataset} --data_dir={data_dir}'
  manual = manual_download(name, os.path.join(data_dir, MANUAL_SUBDIR))
  return f'the data set {dataset} is not prepared in {data_dir}; prepare it with `{command}`' + (
    f' (it needs {manual})' if manual else ''
  )
