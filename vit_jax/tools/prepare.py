"""Prepares a TFDS data set for training: downloads it and writes it as ArrayRecord or TFRecord.

  python -m vit_jax.tools.prepare cifar10 --data_dir=/data

Most data sets need TensorFlow for this, once: pip install 'vit_jax[prepare]'. Training does not.
MNIST and Fashion-MNIST are also made of their four files, without TensorFlow and offline:

  python -m vit_jax.tools.prepare fashion_mnist --manual_dir=/usr/share/datasets/fashion-mnist

(where Debian's package dataset-fashion-mnist puts them).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import importlib.util
import os
import sys

from vit_jax.data import prepared
from vit_jax.data.open_source import is_folder
from vit_jax.errors import InputError, exit_on_error


def prepare(
  name: str,
  *,
  data_dir: str | None = None,
  file_format: str = 'array_record',
  manual_dir: str | None = None,
  download_dir: str | None = None,
) -> str:
  """Downloads and writes a TFDS data set unless it is there; returns its directory.

  Args:
    name: 'name', 'name/config', either with ':version'.
    data_dir: where data sets lie; None means $TFDS_DATA_DIR or ~/tensorflow_datasets.
    file_format: 'array_record' or 'tfrecord'.
    manual_dir: where files lie that had to be downloaded by hand; None means
      data_dir/downloads/manual.
    download_dir: for what is downloaded; None means data_dir/downloads.

  Raises:
    InputError: no such data set, TensorFlow or another package is missing, files that must be
      downloaded by hand are not there, or the download failed.
  """
  if is_folder(name):
    raise InputError(f'{name} is a folder: train on it as it is')
  data_dir = os.path.expanduser(data_dir or prepared.default_data_dir())
  base_name = name.split(':')[0].split('/')[0]
  manual_dir = os.path.expanduser(manual_dir or os.path.join(data_dir, prepared.MANUAL_SUBDIR))
  manual = prepared.manual_download(base_name, manual_dir)
  if manual and not _has_files(manual_dir):
    raise InputError(f'{name} needs {manual}')
  import tensorflow_datasets as tfds

  from vit_jax.data import idx

  from_files = idx.has_files(name, manual_dir) and file_format == 'array_record'
  if not from_files and importlib.util.find_spec('tensorflow') is None:
    print('trying without TensorFlow, which most data sets need to be prepared', file=sys.stderr)
  try:
    if from_files:
      return idx.prepare(name, manual_dir, data_dir)
    builder = tfds.builder(name, data_dir=data_dir, file_format=file_format)
    builder.download_and_prepare(
      download_dir=download_dir,
      download_config=tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False),
    )
  except ImportError as e:
    raise InputError(_missing_package(name, e)) from e
  except (AssertionError, OSError, ValueError, tfds.download.DownloadError) as e:
    raise InputError(f'{name} could not be prepared: {" ".join(str(e).split())}') from e
  return os.fspath(builder.data_dir)


def _has_files(directory: str) -> bool:
  return os.path.isdir(directory) and bool(os.listdir(directory))


def _missing_package(name: str, error: ImportError) -> str:
  """Returns the sentence that says what to install."""
  if 'tensorflow' in str(error).lower():
    return (
      f'only TensorFlow can prepare {name}, and it is not installed: '
      "pip install 'vit_jax[prepare]' (training will not need it)"
    )
  return f'preparing {name} needs a package that is not installed: {" ".join(str(error).split())}'


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.tools.prepare', description=__doc__.split('\n')[0]
  )
  parser.add_argument('name', help='TFDS name: name[/config][:version], such as cifar10')
  parser.add_argument(
    '--data_dir', help='where data sets lie (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)'
  )
  parser.add_argument(
    '--file_format',
    choices=['array_record', 'tfrecord'],
    default='array_record',
    help='default: %(default)s',
  )
  parser.add_argument(
    '--manual_dir',
    help='where files lie that had to be downloaded by hand (default: DATA_DIR/downloads/manual)',
  )
  parser.add_argument('--download_dir', help='default: DATA_DIR/downloads')
  args = parser.parse_args(argv)
  directory = prepare(**vars(args))
  splits = prepared.read_info(directory).splits.values()
  print(
    f'{args.name} is in {directory}: '
    + ', '.join(f'{split.name} {split.num_examples:,} examples' for split in splits)
  )
  print(
    'train on it with: python -m vit_jax.main --config=configs/vit_b16.py --workdir=DIR '
    f'--config.dataset={args.name}'
    + (f' --config.data_dir={args.data_dir}' if args.data_dir else '')
  )
  return 0


if __name__ == '__main__':
  sys.exit(main())
