"""Download a TFDS dataset and write it as ArrayRecord or TFRecord."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import io
import logging
import os
import shlex
from typing import TYPE_CHECKING

from vit_jax.data import digits, idx
from vit_jax.data.dataset_names import is_own_data
from vit_jax.data.folder import is_folder
from vit_jax.errors import InputError
from vit_jax.files import is_remote, user_path

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

log = logging.getLogger('vit_jax')

MANUAL_SUBDIR = os.path.join(
  'downloads', 'manual'
)  # where TFDS expects files that the user downloaded
_NOT_IN_TFDS = {
  'imagenet21k': 'ImageNet-21k is not in TFDS. Request the images from image-net.org.',
  'jft_300m': 'JFT-300M is not public.',
}


def default_data_dir() -> str:
  """Return $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
  return os.environ.get('TFDS_DATA_DIR', os.path.join('~', 'tensorflow_datasets'))


def find_data_dir(data_dir: str | None) -> str:
  """Return the directory of TFDS datasets, by default `default_data_dir`, without a ~.

  Raises:
    InputError: the home directory is unknown.
  """
  path = data_dir or default_data_dir()
  if is_remote(path):
    return path.rstrip('/')
  try:
    return os.fspath(user_path(path))
  except InputError:
    if data_dir:
      raise
    raise InputError(
      'The directory of datasets is unknown, because this user has no home directory. Set data_dir '
      'or the environment variable TFDS_DATA_DIR.'
    ) from None


def prepare(
  name: str,
  *,
  data_dir: str | None = None,
  file_format: str = 'array_record',
  manual_dir: str | None = None,
  download_dir: str | None = None,
) -> str:
  """Download and write a TFDS dataset, unless it is already prepared. Return its directory.

  Args:
    name: 'name' or 'name/config', either with ':version'.
    data_dir: directory of TFDS datasets. Defaults to $TFDS_DATA_DIR or ~/tensorflow_datasets.
    file_format: 'array_record' or 'tfrecord'.
    manual_dir: directory of files that the user has downloaded. Defaults to
      data_dir/downloads/manual.
    download_dir: directory for downloads. Defaults to data_dir/downloads.

  Raises:
    InputError: there is no such dataset, TensorFlow or another package is missing, files that the
      user must download are missing, or the download failed.
  """
  if is_folder(name):
    raise InputError(
      f'{name} is a folder, which needs no preparation. Train on it with --config.dataset={name}.'
    )
  if is_own_data(name):
    raise InputError(
      f'{name} needs no preparation. Train on it with --config.dataset={shlex.quote(name)}.'
    )
  data_dir = find_data_dir(data_dir)
  if is_remote(data_dir):
    raise InputError(
      f'Cannot prepare a dataset in {data_dir}: it is not a local directory. Prepare it on a disk '
      'with --file_format=tfrecord, and copy its directory there.'
    )
  manual_dir = os.fspath(user_path(manual_dir or os.path.join(data_dir, MANUAL_SUBDIR)))
  instructions = manual_download(name.split(':')[0].split('/')[0], manual_dir)
  if instructions and not (os.path.isdir(manual_dir) and os.listdir(manual_dir)):
    raise InputError(f'Cannot prepare {name} yet. {instructions}')
  import tensorflow_datasets as tfds

  from_files = idx.has_files(name, manual_dir) and file_format == 'array_record'
  if not from_files and importlib.util.find_spec('tensorflow') is None:
    log.warning('TensorFlow is not installed. Most datasets need it to be prepared. Trying anyway.')
  try:
    if from_files:
      return idx.prepare(name, manual_dir, data_dir)
    builder = tfds.builder(name, data_dir=data_dir, file_format=file_format)
    builder.download_and_prepare(
      download_dir=download_dir and os.fspath(user_path(download_dir)),
      download_config=tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False),
    )
  except InputError:
    raise
  except ImportError as e:
    raise InputError(_missing_package(name, e)) from e
  except (AssertionError, OSError, ValueError, tfds.download.DownloadError) as e:
    raise InputError(f'Cannot prepare {name}: {" ".join(str(e).split())}') from e
  return os.fspath(builder.data_dir)


def builder_class(name: str) -> type[tfds.core.DatasetBuilder] | None:
  """Return the TFDS builder class of a dataset, or None if its code needs TensorFlow.

  Raises:
    InputError: there is no dataset of this name. The message offers similar names.
  """
  import tensorflow_datasets as tfds

  if name == 'digits':
    return digits.builder_class()
  names = [*tfds.list_builders(with_community_datasets=False), 'digits']
  if name not in names:
    raise _unknown_dataset(name, names)
  try:
    # TFDS prints a banner if TensorFlow is missing.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
      return tfds.builder_cls(name)
  except ImportError:
    return None


def manual_download(name: str, manual_dir: str) -> str | None:
  """Return a sentence about the files that the user must download into manual_dir, or None."""
  instructions = getattr(builder_class(name), 'MANUAL_DOWNLOAD_INSTRUCTIONS', None)
  if not instructions:
    return None
  text = ' '.join(instructions.split()).rstrip('.')
  return f'First download files into {manual_dir}: {text}.'


def _unknown_dataset(name: str, names: list[str]) -> InputError:
  if name in _NOT_IN_TFDS:
    return InputError(
      f'{_NOT_IN_TFDS[name]} Give the path of a folder with train/<class>/ and val/<class>/, or '
      'prepare it with a TFDS builder of your own.'
    )
  similar = difflib.get_close_matches(name, names, n=3)
  hint = (
    f'Did you mean {" or ".join(similar)}?'
    if similar
    else 'See https://www.tensorflow.org/datasets/catalog.'
  )
  return InputError(
    f'Unknown dataset {name!r}. {hint} For a folder with train/<class>/ and val/<class>/, write '
    f'./{name}.'
  )


def _missing_package(name: str, error: ImportError) -> str:
  """Return an error message that names the package to install."""
  if 'tensorflow' in str(error).lower():
    return (
      f'Only TensorFlow can prepare {name}, and it is not installed. Run '
      "pip install 'vit_jax[prepare]'. Training does not need it."
    )
  reason = ' '.join(str(error).split())
  return f'Preparing {name} needs a package that is not installed: {reason}. Install it.'
