"""Read datasets of Hugging Face's package `datasets` by random access.

The package stores them as Arrow files, which are mapped into memory. The images stay encoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import importlib.util
import os
from typing import Any

import numpy as np

from vit_jax.data.source import Example, Source
from vit_jax.data.splits import split_rows
from vit_jax.data.subset import Concatenation
from vit_jax.errors import InputError, first_line, machine_failure, shortlist
from vit_jax.files import printable, user_path

_IMAGE_COLUMNS = ('image', 'img', 'jpg', 'png')
_LABEL_COLUMNS = ('label', 'labels', 'fine_label', 'cls', 'class', 'target')
_FILES = {'.parquet': 'parquet', '.arrow': 'arrow'}  # kinds of single files


class HuggingFaceSource(Source):
  """The rows of a split, in their order.

  A slice such as 'train[90%:]' is a random sample of the split, the same one every time, because
  many datasets are sorted by class. EXIF orientation applies.
  """

  apply_exif = True

  def __init__(self, name: str, split: str):
    """Load the dataset, which downloads it if it is on the hub and not in the cache.

    Args:
      name: a name on the hub or a local path, and after a comma the name of a config. A path is
        that of a directory written by `save_to_disk`, of a directory that `load_dataset` reads,
        or of a .parquet file.
      split: in TFDS notation.

    Raises:
      InputError: the dataset cannot be loaded, there is no such split, or the split has no images
        with labels.
    """
    self._name, self._datasets = name, _load(name)
    self._image, self._label = _find_columns(name, next(iter(self._datasets.values())).features)
    self.num_classes, self.class_names, self.multi_label = _read_classes(
      [dataset.data.column(self._label) for dataset in self._datasets.values()],
      next(iter(self._datasets.values())).features[self._label],
    )
    self._parts = split_rows(split, {name: len(found) for name, found in self._datasets.items()})
    self._rows = Concatenation(len(rows) for _, rows in self._parts)
    if not any(
      _highest(self._datasets[name].data.column(self._label)) >= 0 for name, _ in self._parts
    ):
      raise InputError(f'The split {split} of hf:{name} has no labels. Choose another split.')
    self._reset_columns()

  def _reset_columns(self) -> None:
    self._columns = {
      name: (dataset.data.column(self._image), dataset.data.column(self._label))
      for name, dataset in self._datasets.items()
    }

  def __getstate__(self) -> dict[str, Any]:
    # A column would be pickled with its data, a dataset as the name of its files.
    return {k: v for k, v in vars(self).items() if k != '_columns'}

  def __setstate__(self, state: dict[str, Any]) -> None:
    vars(self).update(state)
    self._reset_columns()

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> Example:
    split, row = self._locate(index)
    label = self.label(index)
    image = self._columns[split][0][row].as_py()
    path = None
    if isinstance(image, dict):
      image, path = image['bytes'], image.get('path')
    if image is None:
      if path is None:
        raise ValueError('the row has a label, but no image')
      try:
        with open(path, 'rb') as f:
          image = f.read()
      except OSError as e:
        raise ValueError(f'the file {path} cannot be read ({e.strerror})') from e
    return {'image': image, 'label': label}

  def label(self, index: int) -> int | np.ndarray:
    """Return the label, without reading the image."""
    split, row = self._locate(index)
    value = self._columns[split][1][row].as_py()
    if value is None:
      raise ValueError('the row has no label')
    for label in value if self.multi_label else [value]:
      if not 0 <= label < self.num_classes:
        raise InputError(
          f'{self.location(index)} has the label {label}, which is not in [0, {self.num_classes}). '
          'If this split has no labels, choose another.'
        )
    if not self.multi_label:
      return value
    multi_hot = np.zeros(self.num_classes, np.uint8)
    multi_hot[value] = 1
    return multi_hot

  def location(self, index: int) -> str:
    """Return the dataset, the split and the row, and the name of the image's file if it has one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    split, row = self._locate(index)
    column, file = self._columns[split][0], None
    if pa.types.is_struct(column.type) and column.type.get_field_index('path') >= 0:
      file = pc.struct_field(column.slice(row, 1), 'path')[0].as_py()  # pyright: ignore
    name = f' ({printable(os.path.basename(file))})' if file else ''
    return f'hf:{self._name}/{split}/{row}{name}'

  def _locate(self, index: int) -> tuple[str, int]:
    """Return the split and the row of an example."""
    part, offset = self._rows.locate(index)
    split, rows = self._parts[part]
    return split, int(rows[offset])


def split_names(name: str) -> list[str]:
  """Return the names of the splits. Raise InputError if the dataset cannot be loaded."""
  return list(_load(name))


def is_path(name: str) -> bool:
  """Return True if a dataset is a local path instead of a name on the hub."""
  return name.startswith(('/', './', '../', '~')) or os.path.exists(name)


def split_config(name: str) -> tuple[str, str | None]:
  """Split 'NAME,CONFIG' into name and config. The config is None if there is none."""
  if os.path.exists(user_path(name)):
    return name, None
  name, _, config = name.partition(',')
  return name, config or None


def _load(name: str) -> dict[str, Any]:
  """Return {split: dataset}."""
  if not name:
    raise InputError('hf: needs a name or a path behind it, such as hf:timm/mini-imagenet.')
  if name.startswith('//'):
    raise InputError(
      f'hf:{name} is an address. Write hf:{name.removeprefix("//datasets/").strip("/")} for a '
      f'dataset of the package datasets, or wds:hf:{name} for tars in the WebDataset format.'
    )
  if importlib.util.find_spec('datasets') is None:
    raise InputError(f"hf:{name} needs the package datasets. Run: pip install 'vit_jax[hf]'")
  import datasets

  path, config = split_config(name)
  if is_path(path):
    path = os.path.abspath(user_path(path))
    if not os.path.exists(path):
      raise InputError(f'There is no dataset at {path}. Check the path.')
  kind = _FILES.get(os.path.splitext(path)[1]) if os.path.isfile(path) else None
  try:
    if kind:
      loaded = datasets.load_dataset(kind, data_files=path)
    elif any(os.path.exists(os.path.join(path, f)) for f in ('dataset_dict.json', 'state.json')):
      loaded = datasets.load_from_disk(path)
    else:
      loaded = datasets.load_dataset(path, config)
  except Exception as e:  # the package raises errors of its own and of the many that it calls
    if machine_failure(e):
      raise
    raise InputError(
      f'Cannot load hf:{name}: {first_line(e).rstrip(".")}. Check the name. For a dataset on the '
      'hub, also check your network connection and your access to it.'
    ) from e
  if isinstance(loaded, datasets.Dataset):
    return {str(loaded.split or 'train'): loaded}
  return {str(split): dataset for split, dataset in loaded.items()}


def _find_columns(name: str, features: Mapping[str, Any]) -> tuple[str, str]:
  """Return the names of the columns with the images and the labels."""
  import datasets

  images = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
  images += [key for key in _IMAGE_COLUMNS if _holds_bytes(features.get(key))]
  labels = [key for key, feature in features.items() if _is_class_label(_element(feature))]
  labels += [key for key in _LABEL_COLUMNS if _is_number(_element(features.get(key)))]
  if images and labels:
    return _prefer(images, _IMAGE_COLUMNS), _prefer(labels, _LABEL_COLUMNS)
  columns = shortlist(f'{key}: {type(feature).__name__}' for key, feature in features.items())
  raise InputError(
    f'hf:{name} is not an image classification dataset. It needs an Image and a ClassLabel (or a '
    f'sequence of ClassLabel), but its columns are {columns}. Choose another dataset.'
  )


def _prefer(found: Sequence[str], known: Sequence[str]) -> str:
  """Return the first of the known names that is found, or else the first name that is found."""
  return next((key for key in known if key in found), found[0])


def _element(feature: Any) -> Any:
  """Return the feature of the elements of a sequence, or the feature itself."""
  if isinstance(feature, list):
    return feature[0]
  return getattr(feature, 'feature', feature)


def _is_class_label(feature: Any) -> bool:
  import datasets

  return isinstance(feature, datasets.ClassLabel)


def _is_number(feature: Any) -> bool:
  return 'int' in str(getattr(feature, 'dtype', ''))


def _holds_bytes(feature: Any) -> bool:
  """Return True for a column of bytes, or of {'bytes', 'path'}, which was not saved as an Image."""
  if isinstance(feature, Mapping):
    return _holds_bytes(feature.get('bytes'))
  return 'binary' in str(getattr(feature, 'dtype', ''))


def _read_classes(columns: Sequence[Any], feature: Any) -> tuple[int, list[str] | None, bool]:
  """Return the number of classes, their names or None, and True for several labels per image.

  Args:
    columns: the labels of all splits.
    feature: their type. A ClassLabel knows the classes. Of numbers, the highest tells.
  """
  element = _element(feature)
  if _is_class_label(element) and element.num_classes:
    return element.num_classes, list(element.names), element is not feature
  return max(map(_highest, columns)) + 1, None, element is not feature


def _highest(column: Any) -> int:
  """Return the highest label in a column, or -1 if it has none."""
  import pyarrow as pa
  import pyarrow.compute as pc

  if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
    column = pc.list_flatten(column)  # pyright: ignore
  highest = pc.max(column).as_py()  # pyright: ignore
  return -1 if highest is None else highest
