"""A dataset by its name: the reader that opens it, its splits, its defaults."""

from __future__ import annotations

import os

from vit_jax.data import catalog, folder, prepared, vtab_tasks
from vit_jax.data.source import Source
from vit_jax.data.tfds import TfdsSource

_EVAL_SPLITS = ('validation', 'val', 'test')


def open_source(dataset: str, split: str, data_dir: str | None = None) -> Source:
  """Opens a data set for reading.

  Args:
    dataset: a TFDS name ('cifar10', 'eurosat/rgb', 'imagenet2012:5.1.0'), 'digits' (embedded:
      written under data_dir on first use), a task of VTAB-1k ('vtab/clevr_count', see
      `vit_jax.data.vtab_tasks`), or the path of a folder that holds {train,val}/<class>/*.jpg (see
      `is_folder`).
    split: in TFDS notation: 'train', 'test[:16]', 'train[:98%]', 'train+validation'.
    data_dir: where TFDS data sets lie; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.

  Raises:
    InputError: no such data set or split, or the data set is not prepared.
  """
  if is_folder(dataset):
    return folder.FolderSource(dataset, split)
  if dataset.startswith('vtab/'):
    return vtab_tasks.open_task(dataset.removeprefix('vtab/'), split, data_dir)
  return TfdsSource(prepared.find_directory(dataset, data_dir), split)


def split_names(dataset: str, data_dir: str | None = None) -> list[str]:
  """Returns the names of the splits there are; raises InputError like `open_source`."""
  if is_folder(dataset):
    return folder.split_names(dataset)
  if dataset.startswith('vtab/'):
    return list(vtab_tasks.find_task(dataset.removeprefix('vtab/')).splits)
  return list(prepared.read_info(prepared.find_directory(dataset, data_dir)).splits)


def is_folder(dataset: str) -> bool:
  """Whether `dataset` means a folder: it starts with /, ./, ../ or ~, or has a train/ inside."""
  return dataset.startswith(('/', './', '../', '~')) or os.path.isdir(
    os.path.join(dataset, 'train')
  )


def describe_dataset(dataset: str, data_dir: str | None = None) -> catalog.DatasetInfo:
  """Returns the defaults for a data set of the table, any other TFDS data set, or a folder.

  Args:
    dataset: TFDS name, task of VTAB-1k or folder, as for `open_source`.
    data_dir: where to look up the splits of a data set that the table does not have.

  Raises:
    InputError: such a data set is not there.
  """
  if not is_folder(dataset):
    if dataset.startswith('vtab/'):
      return vtab_tasks.find_task(dataset.removeprefix('vtab/')).info()
    if found := catalog.lookup(dataset):
      return found
  splits = split_names(dataset, data_dir)
  return catalog.DatasetInfo('train', next((s for s in _EVAL_SPLITS if s in splits), 'none'))
