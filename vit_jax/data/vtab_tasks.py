"""The 19 tasks of VTAB-1k (arXiv 1910.04867): 1,000 images to train on, a full test set.

A task is a data set by the name 'vtab/TASK' with the splits train800, val200, train800val200 (on
which the reported model is trained) and test.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import cv2
import numpy as np

from vit_jax.data import catalog, prepared
from vit_jax.data.decode import decode_image
from vit_jax.data.labels import Features, Labels, feature_labels
from vit_jax.data.source import Source
from vit_jax.data.splits import named_splits
from vit_jax.data.tfds import TfdsSource
from vit_jax.errors import InputError

GROUPS = ('natural', 'specialized', 'structured')


@dataclasses.dataclass(frozen=True)
class Task:
  """One task.

  Attributes:
    group: of GROUPS.
    dataset: TFDS name that holds its images.
    num_classes: labels lie in [0, num_classes).
    val: the 200 images of val200, in TFDS notation; train800 is 'train[:800]'.
    test: in TFDS notation.
    crop: whether training crops at random, from images 7/6 the size.
    flip: whether training mirrors at random. Crops and flips are those tuned for VTAB.
    label: the feature that is the label, or a function (features) -> [label] of other features.
    binary: whether pixels are 0 and 1 instead of 0 and 255.
  """

  group: str
  dataset: str
  num_classes: int
  val: str
  test: str = 'test'
  crop: bool = True
  flip: bool = True
  label: str | Callable[[Features], list[int]] = 'label'
  binary: bool = False

  @property
  def splits(self) -> dict[str, str]:
    """{name: what it is of the data set, in TFDS notation}."""
    return {
      'train800': 'train[:800]',
      'val200': self.val,
      'train800val200': f'train[:800]+{self.val}',
      'test': self.test,
    }

  def info(self) -> catalog.DatasetInfo:
    """The task as `open_source.describe_dataset` tells it."""
    about = catalog.lookup(self.dataset)
    return catalog.DatasetInfo(
      'train800val200',
      'test',
      flip=self.flip,
      preset='bit',
      tune_split='train800',
      dev_split='val200',
      num_classes=self.num_classes,
      pixels=about.pixels,
      splits={name: about.count(split) for name, split in self.splits.items()},
    )


# How the labels of structured tasks follow from what their data sets annotate. Each function
# takes the features of a record and returns [label].


def clevr_count(features: Features) -> list[int]:
  """The number of objects, 3 to 10, less 3."""
  return [len(features['objects/size'].int64_list.value) - 3]


def clevr_distance(features: Features) -> list[int]:
  """In which of 6 ranges the closest object's distance from the camera lies."""
  depths = features['objects/pixel_coords'].float_list.value[2::3]  # (x, y, depth) of each object
  return [_range(min(depths), (0, 8, 8.5, 9, 9.5, 10, 100))]


def kitti_distance(features: Features) -> list[int]:
  """How far the closest vehicle is: up to 8 m, 20 m, farther, or 3: there is none."""
  types = features['objects/type'].int64_list.value
  depths = features['objects/location'].float_list.value[2::3]  # (x, y, z) of each object, in m
  vehicles = [z for kind, z in zip(types, depths, strict=True) if kind < 3]  # car, van, truck
  return [_range(min(vehicles, default=1000), (-100, 8, 20, 999))]


def dsprites_label(features: Features, key: str, num_values: int) -> list[int]:
  """One of `num_values` equally spaced values, in 16 classes of neighbours."""
  return [features[key].int64_list.value[0] * 16 // num_values]


def _range(value: float, thresholds: tuple[float, ...]) -> int:
  """The index of the last threshold below value; -1 if there is none."""
  return bisect.bisect_left(thresholds, value) - 1


_DSPRITES = functools.partial(
  Task,
  'structured',
  'dsprites',
  16,
  'train[589824:590024]',
  'train[663552:]',
  flip=False,
  binary=True,
)
_SMALLNORB = functools.partial(Task, 'structured', 'smallnorb', val='test[:200]', test='test[50%:]')
TASKS = {
  'caltech101': Task('natural', 'caltech101', 102, 'train[2754:2954]'),
  'cifar100': Task('natural', 'cifar100', 100, 'train[45000:45200]'),
  'dtd': Task('natural', 'dtd', 47, 'validation[:200]'),
  'flowers102': Task('natural', 'oxford_flowers102', 102, 'validation[:200]'),
  'pets': Task('natural', 'oxford_iiit_pet', 37, 'train[2944:3144]'),
  'sun397': Task('natural', 'sun397/tfds', 397, 'validation[:200]'),
  'svhn': Task('natural', 'svhn_cropped', 10, 'train[65931:66131]'),
  'camelyon': Task('specialized', 'patch_camelyon', 2, 'validation[:200]'),
  'eurosat': Task('specialized', 'eurosat/rgb', 10, 'train[16200:16400]', 'train[21600:]'),
  'resisc45': Task('specialized', 'resisc45', 45, 'train[18900:19100]', 'train[25200:]'),
  'retinopathy': Task(
    'specialized', 'diabetic_retinopathy_detection/btgraham-300', 5, 'validation[:200]'
  ),
  'clevr_count': Task(
    'structured', 'clevr', 8, 'train[63000:63200]', 'validation', crop=False, label=clevr_count
  ),
  'clevr_distance': Task(
    'structured', 'clevr', 6, 'train[63000:63200]', 'validation', crop=False, label=clevr_distance
  ),
  'dmlab': Task('structured', 'dmlab', 6, 'validation[:200]', crop=False),
  'kitti_distance': Task(
    'structured', 'kitti', 4, 'validation[:200]', crop=False, label=kitti_distance
  ),
  'dsprites_location': _DSPRITES(
    crop=False, label=functools.partial(dsprites_label, key='label_x_position', num_values=32)
  ),
  'dsprites_orientation': _DSPRITES(
    label=functools.partial(dsprites_label, key='label_orientation', num_values=40)
  ),
  'smallnorb_azimuth': _SMALLNORB(num_classes=18, flip=False, label='label_azimuth'),
  'smallnorb_elevation': _SMALLNORB(num_classes=9, label='label_elevation'),
}
# Of the 30 files of each of Caltech's 102 classes that are drawn for training, versions of TFDS
# differ in one.
_OTHER_SIZES = {'caltech101': {'train': 3059, 'test': 6085}}


def find_task(name: str) -> Task:
  """Returns the task of that name; raises InputError when there is none."""
  if name not in TASKS:
    raise InputError(f'there is no VTAB task {name!r}; the tasks are {", ".join(TASKS)}')
  return TASKS[name]


def open_task(name: str, split: str, data_dir: str | None = None) -> Source:
  """Opens a split of a task for reading.

  Args:
    name: of TASKS.
    split: 'train800', 'val200', 'train800val200' or 'test'.
    data_dir: as for `open_source`.

  Raises:
    InputError: no such task or split; the data set is not prepared (says how to prepare it), or
      it is not the one of which these splits are slices.
  """
  task = find_task(name)
  if split not in task.splits:
    raise InputError(f'vtab/{name} has no split {split!r}; the splits are {", ".join(task.splits)}')
  directory = prepared.find_directory(task.dataset, data_dir)
  info = prepared.read_info(directory)
  _check_sizes(task, info, directory)
  opened = _BinarySource if task.binary else TfdsSource
  return opened(directory, task.splits[split], _labels(task, info, directory))


def _check_sizes(task: Task, info: Any, directory: str) -> None:
  """Slices by number mean what they should only of a data set of the size known."""
  sizes = catalog.lookup(task.dataset).splits
  for name in sorted(set().union(*map(named_splits, task.splits.values()))):
    found = info.splits[name].num_examples if name in info.splits else 0
    if found not in (sizes[name], _OTHER_SIZES.get(task.dataset, {}).get(name)):
      raise InputError(
        f'{directory} has {found:,} examples in {name}, not {sizes[name]:,}, so '
        'that VTAB-1k would be other images: prepare the data set again'
      )


def _labels(task: Task, info: Any, directory: str) -> Labels:
  if not isinstance(task.label, str):
    return Labels('image', task.label, task.num_classes)
  labels = feature_labels(info, task.label) if task.label in info.features else None
  if labels is None or labels.num_classes != task.num_classes:
    raise InputError(
      f'{directory} has no {task.label} of {task.num_classes} classes: prepare the data set again'
    )
  return labels


class _BinarySource(TfdsSource):
  """Images of the pixels 0 and 1, which become 0 and 255."""

  def __getitem__(self, index: int) -> dict[str, Any]:
    read = super().__getitem__(index)
    image = (decode_image(read['image']) > 0) * np.uint8(255)
    return read | {'image': cv2.imencode('.png', image)[1].tobytes()}
