"""Tell apart the kinds of names that a dataset may have."""

from __future__ import annotations

import os

from vit_jax.data.folder import is_folder
from vit_jax.files import is_remote, user_path

WEBDATASET = 'wds:'


def is_own_data(dataset: str) -> bool:
  """Return True unless `dataset` is the name of a dataset of TFDS or of a task of VTAB."""
  return is_folder(dataset) or dataset.startswith(WEBDATASET)


def absolute_path(dataset: str) -> str:
  """Return the dataset with an absolute path instead of a relative one, if it has a path."""
  if dataset.startswith(WEBDATASET):
    patterns = dataset.removeprefix(WEBDATASET).split('::')
    return WEBDATASET + '::'.join(map(_absolute, patterns))
  return _absolute(dataset) if is_folder(dataset) else dataset


def _absolute(path: str) -> str:
  return path if is_remote(path) else os.path.abspath(user_path(path))
