"""Define the 19 tasks of VTAB-1k (arXiv 1910.04867): 1,000 training images and a full test set.

A task is a dataset with the name 'vtab/TASK'. Its splits are train800, val200, train800val200 (on
which the reported model is trained) and test.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from vit_jax.data import catalog, tfds_directory
from vit_jax.data.decode import decode_image
from vit_jax.data.labels import Features, Labels, feature_labels
from vit_jax.data.source import Example, Source
from vit_jax.data.splits import named_splits
from vit_jax.data.tfds import TfdsSource
from vit_jax.errors import InputError, unknown

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

GROUPS = ('natural', 'specialized', 'structured')


@dataclasses.dataclass(frozen=True)
class Task:
  """A task of VTAB-1k.

  Attributes:
    group: one of GROUPS.
    dataset: TFDS name of the dataset that holds the images.
    num_classes: labels lie in [0, num_classes).
    val: the 200 images of val200, in TFDS notation. train800 is 'train[:800]'.
    test: the test images, in TFDS notation.
    crop: True if training crops at random, from images 7/6 the size. `crop` and `flip` are the
      values tuned for VTAB.
    flip: True if training mirrors images at random.
    label: the feature that is the label, or a function from other features to [label].
    binary: True if pixels are 0 and 1 instead of 0 and 255.
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
    """The splits of the task, as splits of its dataset in TFDS notation."""
    return {
      'train800': 'train[:800]',
      'val200': self.val,
      'train800val200': f'train[:800]+{self.val}',
      'test': self.test,
    }

  def info(self) -> catalog.DatasetInfo:
    """Return the defaults of the task."""
    dataset = _catalog_entry(self)
    return catalog.DatasetInfo(
      'train800val200',
      'test',
      flip=self.flip,
      preset='bit',
      tune_split='train800',
      dev_split='val200',
      num_classes=self.num_classes,
      pixels=dataset.pixels,
      splits={name: dataset.count(split) or 0 for name, split in self.splits.items()},
    )


def _catalog_entry(task: Task) -> catalog.DatasetInfo:
  info = catalog.lookup(task.dataset)
  assert info is not None, f'the catalog lacks {task.dataset}'
  return info


# Labels of the structured tasks, made from the annotations of their datasets. Each function takes
# the features of a record and returns [label].


def clevr_count(features: Features) -> list[int]:
  """Return the number of objects, 3 to 10, minus 3."""
  return [len(features['objects/size'].int64_list.value) - 3]


def clevr_distance(features: Features) -> list[int]:
  """Return the range, of 6, that holds the distance from the camera to the closest object."""
  depths = features['objects/pixel_coords'].float_list.value[2::3]  # (x, y, depth) of each object
  return [_range(min(depths), (0, 8, 8.5, 9, 9.5, 10, 100))]


def kitti_distance(features: Features) -> list[int]:
  """Return the distance of the closest vehicle: 0 to 8 m, 1 to 20 m, 2 farther, 3 no vehicle."""
  types = features['objects/type'].int64_list.value
  depths = features['objects/location'].float_list.value[2::3]  # (x, y, z) of each object, in m
  vehicles = [z for kind, z in zip(types, depths, strict=True) if kind < 3]  # car, van, truck
  return [_range(min(vehicles, default=1000), (-100, 8, 20, 999))]


def dsprites_label(features: Features, key: str, num_values: int) -> list[int]:
  """Return the class, of 16, of one of `num_values` equally spaced values."""
  return [features[key].int64_list.value[0] * 16 // num_values]


def _range(value: float, thresholds: tuple[float, ...]) -> int:
  """Return the index of the last threshold below a value, or -1 if there is none."""
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
# In some versions of TFDS, one training image of Caltech101 is a test image.
_OTHER_SIZES = {'caltech101': {'train': 3059, 'test': 6085}}


def find_task(name: str) -> Task:
  """Return the task of a name. Raise InputError if there is none."""
  if name not in TASKS:
    raise unknown('VTAB task', name, TASKS)
  return TASKS[name]


def open_task(name: str, split: str, data_dir: str | None = None) -> Source:
  """Open a split of a task for reading.

  Args:
    name: a key of TASKS.
    split: 'train800', 'val200', 'train800val200' or 'test'.
    data_dir: as for `open_source`.

  Raises:
    InputError: there is no such task or split, the dataset is not prepared, or its size differs
      from that of the benchmark's dataset.
  """
  task = find_task(name)
  if split not in task.splits:
    raise unknown(f'vtab/{name} split', split, task.splits)
  directory = tfds_directory.find_directory(task.dataset, data_dir)
  info = tfds_directory.read_info(directory)
  _check_sizes(task, info, directory)
  source_class = _BinarySource if task.binary else TfdsSource
  return source_class(directory, task.splits[split], _labels(task, info, directory))


def _check_sizes(task: Task, info: tfds.core.DatasetInfo, directory: str) -> None:
  """Raise InputError if a split has another size, because its slices would be other images."""
  sizes = _catalog_entry(task).splits
  for name in sorted(set().union(*map(named_splits, task.splits.values()))):
    size = info.splits[name].num_examples if name in info.splits else 0
    if size not in (sizes[name], _OTHER_SIZES.get(task.dataset, {}).get(name)):
      raise InputError(
        f'{directory} has {size:,} examples in {name} instead of {sizes[name]:,}, so it does not '
        'hold the images of VTAB-1k. Prepare the dataset again.'
      )


def _labels(task: Task, info: tfds.core.DatasetInfo, directory: str) -> Labels:
  if not isinstance(task.label, str):
    return Labels('image', task.label, task.num_classes)
  features: Any = info.features
  labels = feature_labels(info, task.label) if task.label in features else None
  if labels is None or labels.num_classes != task.num_classes:
    raise InputError(
      f'{directory} has no feature {task.label} with {task.num_classes} classes. Prepare the '
      'dataset again.'
    )
  return labels


class _BinarySource(TfdsSource):
  """A source whose pixels are stored as 0 and 1, and returned as 0 and 255."""

  def parse(self, index: int, wait: Callable[[], bytes]) -> Example:
    """Return an example. `wait` returns its record."""
    example = super().parse(index, wait)
    image = (decode_image(example['image']) > 0) * np.uint8(255)
    return {'image': cv2.imencode('.png', image)[1].tobytes(), 'label': example['label']}
