"""Tell apart the kinds of names that a dataset may have."""

from __future__ import annotations

import os

from vit_jax.data.folder import is_folder
from vit_jax.data.huggingface import is_path, split_config
from vit_jax.data.prefixes import HUGGING_FACE, PREFIXES, WEBDATASET
from vit_jax.files import is_remote, user_path

LABELS_FILE = '.csv'
_FOLDER = 'folder'


def is_own_data(dataset: str) -> bool:
  """Return True unless `dataset` is the name of a dataset of TFDS or of a task of VTAB."""
  return _kind(dataset) is not None


def may_have_moved(before: str, now: str) -> bool:
  """Return True if two datasets are own data of one kind, so that they may be the same images."""
  return _kind(before) is not None and _kind(before) == _kind(now)


def _kind(dataset: str) -> str | None:
  """Return the kind of own data, as one of the constants above, or None."""
  for prefix in PREFIXES:
    if dataset.startswith(prefix):
      return prefix
  if dataset.endswith(LABELS_FILE):
    return LABELS_FILE
  return _FOLDER if is_folder(dataset) else None


def absolute_path(dataset: str) -> str:
  """Return the dataset with an absolute path instead of a relative one, if it has a path."""
  if dataset.startswith(WEBDATASET):
    patterns = dataset.removeprefix(WEBDATASET).split('::')
    return WEBDATASET + '::'.join(map(_absolute, patterns))
  if dataset.startswith(HUGGING_FACE):
    name, config = split_config(dataset.removeprefix(HUGGING_FACE))
    name = _absolute(name) if is_path(name) else name
    return f'{HUGGING_FACE}{name},{config}' if config else HUGGING_FACE + name
  return _absolute(dataset) if is_own_data(dataset) else dataset


def _absolute(path: str) -> str:
  return path if is_remote(path) else os.path.abspath(user_path(path))
