"""Open a dataset by its name, list its splits, and look up its defaults."""

from __future__ import annotations

from vit_jax.data import (
  catalog,
  folder,
  huggingface,
  labels_file,
  tfds_directory,
  vtab_tasks,
  webdataset,
)
from vit_jax.data.dataset_names import LABELS_FILE, is_own_data
from vit_jax.data.folder import is_folder
from vit_jax.data.prefixes import HUGGING_FACE, WEBDATASET
from vit_jax.data.source import Source
from vit_jax.data.tfds import TfdsSource

# Names of a split to evaluate on, in the order in which they are chosen, in any case.
_EVAL_SPLITS = ('validation', 'val', 'valid', 'dev', 'eval', 'evaluation', 'test', 'testing')


def open_source(dataset: str, split: str, data_dir: str | None = None) -> Source:
  """Open a dataset for reading.

  Args:
    dataset: one of
      - a TFDS name: 'cifar10', 'eurosat/rgb', 'imagenet2012:5.1.0';
      - 'digits', which needs no download and is written to data_dir at first use;
      - a task of VTAB-1k: 'vtab/clevr_count' (see `vtab_tasks`);
      - the path of a folder that holds {train,val}/<class>/*.jpg (see `folder.is_folder`);
      - the path of a .csv file with the labels of the images beside it (see `labels_file`);
      - 'wds:' and a pattern of tar files in the WebDataset format (see `shard_pattern`);
      - 'hf:' and the name or path of a dataset of Hugging Face (see `huggingface`).
    split: in TFDS notation: 'train', 'test[:16]', 'train[:98%]', 'train+validation'.
    data_dir: directory of TFDS datasets. Defaults to $TFDS_DATA_DIR or ~/tensorflow_datasets.

  Raises:
    InputError: there is no such dataset or split, or the dataset is not prepared.
  """
  if dataset.endswith(LABELS_FILE):
    return labels_file.LabelsFileSource(dataset, split)
  if is_folder(dataset):
    return folder.FolderSource(dataset, split)
  if dataset.startswith(WEBDATASET):
    return webdataset.WebDatasetSource(dataset.removeprefix(WEBDATASET), split)
  if dataset.startswith(HUGGING_FACE):
    return huggingface.HuggingFaceSource(dataset.removeprefix(HUGGING_FACE), split)
  if dataset.startswith('vtab/'):
    return vtab_tasks.open_task(dataset.removeprefix('vtab/'), split, data_dir)
  return TfdsSource(tfds_directory.find_directory(dataset, data_dir), split)


def split_names(dataset: str, data_dir: str | None = None) -> list[str]:
  """Return the names of a dataset's splits. Raise InputError like `open_source`."""
  if dataset.endswith(LABELS_FILE):
    return labels_file.split_names(dataset)
  if is_folder(dataset):
    return folder.split_names(dataset)
  if dataset.startswith(WEBDATASET):
    return webdataset.split_names(dataset.removeprefix(WEBDATASET))
  if dataset.startswith(HUGGING_FACE):
    return huggingface.split_names(dataset.removeprefix(HUGGING_FACE))
  if dataset.startswith('vtab/'):
    return list(vtab_tasks.find_task(dataset.removeprefix('vtab/')).splits)
  directory = tfds_directory.find_directory(dataset, data_dir)
  return list(tfds_directory.read_info(directory).splits)


def describe_dataset(dataset: str, data_dir: str | None = None) -> catalog.DatasetInfo:
  """Return the default splits, preprocessing and sizes of a dataset.

  They come from the catalog. For a TFDS dataset that is not in the catalog, and for your own data,
  only the names of its splits are known.

  Args:
    dataset: as for `open_source`.
    data_dir: directory of TFDS datasets, used only if the dataset is not in the catalog.

  Raises:
    InputError: there is no such dataset.
  """
  if not is_own_data(dataset):
    if dataset.startswith('vtab/'):
      return vtab_tasks.find_task(dataset.removeprefix('vtab/')).info()
    if info := catalog.lookup(dataset):
      return info
  splits = split_names(dataset, data_dir)
  found = (name for known in _EVAL_SPLITS for name in splits if name.lower() == known)
  return catalog.DatasetInfo('train', next(found, 'none'))
