"""Prepare a TFDS dataset for training: download it, and write it as ArrayRecord or TFRecord.

  python -m vit_jax.tools.prepare cifar10 --data_dir=/data

Most datasets need TensorFlow for this, once: pip install 'vit_jax[prepare]'. Training does not.
MNIST and Fashion-MNIST can also be prepared from their four files, offline and without TensorFlow:

  python -m vit_jax.tools.prepare fashion_mnist --manual_dir=/usr/share/datasets/fashion-mnist

(this is where Debian's package dataset-fashion-mnist puts them).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import sys

from vit_jax.data import tfds_directory
from vit_jax.data.prepare import prepare
from vit_jax.errors import exit_on_error


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Run the command line and return the exit code."""
  args = _parser().parse_args(argv)
  directory = prepare(**vars(args))
  splits = tfds_directory.read_info(directory).splits.values()
  sizes = ', '.join(f'{split.name} {split.num_examples:,} examples' for split in splits)
  print(f'{args.name} is in {directory}: {sizes}')
  flags = f'--config.dataset={args.name}'
  if args.data_dir:
    flags += f' --config.data_dir={args.data_dir}'
  print('To train on it: python -m vit_jax.main --config=configs/vit_b16.py --workdir=DIR ' + flags)
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m vit_jax.tools.prepare', description=(__doc__ or '').split('\n')[0]
  )
  parser.add_argument('name', help='TFDS name: name[/config][:version], such as cifar10')
  parser.add_argument(
    '--data_dir',
    help='directory of TFDS datasets (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)',
  )
  parser.add_argument(
    '--file_format',
    choices=['array_record', 'tfrecord'],
    default='array_record',
    help='format of the files to write (default: %(default)s)',
  )
  parser.add_argument(
    '--manual_dir',
    help='directory of files that you have downloaded (default: DATA_DIR/downloads/manual)',
  )
  parser.add_argument(
    '--download_dir', help='directory for downloads (default: DATA_DIR/downloads)'
  )
  return parser


if __name__ == '__main__':
  sys.exit(main())
