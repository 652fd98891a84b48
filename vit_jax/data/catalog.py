"""Look up a dataset by name: its splits, sizes and default preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import re

from vit_jax.data.splits import split_ranges


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """Defaults for a dataset. The fields of a config override them.

  Attributes:
    train_split: in TFDS notation.
    eval_split: in TFDS notation, or 'none' if there is nothing to evaluate on.
    flip: True if training mirrors images at random. False if left and right matter (digits).
    preset: preprocessing preset for training from scratch: 'inception' for photographs of any size,
      'bit' for images that are small or of one size. Fine-tuning uses 'bit' for every dataset.
    tune_split: the training data on which hyperparameters are tried (paper section 4.1, appendix
      B.1.1).
    dev_split: the training data on which these trials are evaluated, to choose among them.
    num_classes: number of classes, or None if only the files show it.
    splits: number of images in each split, or empty if only the files show it.
    pixels: side of the images if all are squares of one size, else None.
    config: the TFDS config that this entry describes, or None if it describes all of them.
  """

  train_split: str
  eval_split: str
  flip: bool = True
  preset: str = 'inception'
  tune_split: str = 'train[:90%]'
  dev_split: str = 'train[90%:]'
  num_classes: int | None = None
  splits: Mapping[str, int] = dataclasses.field(default_factory=dict)
  pixels: int | None = None
  config: str | None = None

  def count(self, split: str) -> int | None:
    """Return the number of images in a split expression, or None if `splits` is empty.

    Raises:
      InputError: the notation is wrong, a split is unknown, or a slice is out of bounds.
    """
    if not self.splits:
      return None
    shards = {name: [size] for name, size in self.splits.items()}
    return sum(stop - start for _, start, stop in split_ranges(split, shards))


def _small(
  num_classes: int, train: int, test: int, pixels: int, *, dev_percent: int = 10, flip: bool = True
) -> DatasetInfo:
  """Return the entry of a dataset of small images, with the splits train and test."""
  cut = 100 - dev_percent
  return DatasetInfo(
    'train',
    'test',
    flip=flip,
    preset='bit',
    tune_split=f'train[:{cut}%]',
    dev_split=f'train[{cut}%:]',
    num_classes=num_classes,
    splits=dict(train=train, test=test),
    pixels=pixels,
  )


# The dev split is 10 % of the training data, but 2 % for CIFAR and 1 % for ImageNet. The paper
# reports its results (section 4.1) on these evaluation splits.
_DATASETS = {
  'caltech101': DatasetInfo(
    'train', 'test', preset='bit', num_classes=102, splits=dict(train=3060, test=6084)
  ),
  'cifar10': _small(10, 50_000, 10_000, 32, dev_percent=2),
  'cifar100': _small(100, 50_000, 10_000, 32, dev_percent=2),
  'clevr': DatasetInfo(  # Only VTAB's tasks define labels for clevr, dsprites and kitti.
    'train', 'validation', preset='bit', splits=dict(train=70_000, validation=15_000, test=15_000)
  ),
  'diabetic_retinopathy_detection': DatasetInfo(
    'train',
    'test',
    preset='bit',
    num_classes=5,
    splits=dict(train=35_126, validation=10_906, test=42_670, sample=10),
  ),
  'digits': _small(10, 1437, 360, 8, flip=False),
  'dmlab': DatasetInfo(
    'train',
    'test',
    preset='bit',
    num_classes=6,
    splits=dict(train=65_550, validation=22_628, test=22_735),
  ),
  'dsprites': DatasetInfo(
    'train[:80%]',
    'train[90%:]',
    preset='bit',
    flip=False,
    tune_split='train[:80%]',
    dev_split='train[80%:90%]',
    splits=dict(train=737_280),
    pixels=64,
  ),
  'dtd': DatasetInfo(
    'train+validation',
    'test',
    preset='bit',
    num_classes=47,
    tune_split='train',
    dev_split='validation',
    splits=dict(train=1880, validation=1880, test=1880),
  ),
  'eurosat': DatasetInfo(  # It has one split. The slices are those of VTAB.
    'train[:80%]',
    'train[80%:]',
    preset='bit',
    num_classes=10,
    tune_split='train[:60%]',
    dev_split='train[60%:80%]',
    splits=dict(train=27_000),
    pixels=64,
    config='rgb',
  ),
  'fashion_mnist': _small(10, 60_000, 10_000, 28),
  'imagenet2012': DatasetInfo(
    'train',
    'validation',
    tune_split='train[:99%]',
    dev_split='train[99%:]',
    num_classes=1000,
    splits=dict(train=1_281_167, validation=50_000, test=100_000),
  ),
  # Users prepare this dataset with a builder of their own. It has no official validation split.
  'imagenet21k': DatasetInfo(
    'train[51200:]',
    'train[:51200]',
    tune_split='train[102400:]',
    dev_split='train[51200:102400]',
    num_classes=21_843,
    splits=dict(train=14_197_122),
  ),
  'kitti': DatasetInfo(
    'train',
    'test',
    preset='bit',
    tune_split='train',
    dev_split='validation',
    splits=dict(train=6347, validation=423, test=711),
  ),
  'mnist': _small(10, 60_000, 10_000, 28, flip=False),
  'oxford_flowers102': DatasetInfo(  # It has 2,040 training images.
    'train+validation',
    'test',
    preset='bit',
    tune_split='train[:90%]+validation[:90%]',
    dev_split='train[90%:]+validation[90%:]',
    num_classes=102,
    splits=dict(train=1020, validation=1020, test=6149),
  ),
  'oxford_iiit_pet': DatasetInfo(
    'train', 'test', preset='bit', num_classes=37, splits=dict(train=3680, test=3669)
  ),
  'patch_camelyon': DatasetInfo(
    'train',
    'test',
    preset='bit',
    tune_split='train',
    dev_split='validation',
    num_classes=2,
    splits=dict(train=262_144, validation=32_768, test=32_768),
    pixels=96,
  ),
  'resisc45': DatasetInfo(  # It has one split. The slices are those of VTAB.
    'train[:80%]',
    'train[80%:]',
    preset='bit',
    num_classes=45,
    tune_split='train[:60%]',
    dev_split='train[60%:80%]',
    splits=dict(train=31_500),
    pixels=256,
  ),
  'smallnorb': _small(5, 24_300, 24_300, 96, flip=False),
  'sun397': DatasetInfo(
    'train',
    'test',
    preset='bit',
    tune_split='train',
    dev_split='validation',
    num_classes=397,
    splits=dict(train=76_128, validation=10_875, test=21_750),
    config='tfds',
  ),
  'svhn_cropped': DatasetInfo(
    'train',
    'test',
    flip=False,
    preset='bit',
    num_classes=10,
    pixels=32,
    splits=dict(train=73_257, test=26_032, extra=531_131),
  ),
}


def names() -> list[str]:
  """Return the names of the datasets in the catalog."""
  return list(_DATASETS)


def lookup(dataset: str) -> DatasetInfo | None:
  """Return the entry for a TFDS name, or None if the catalog has none."""
  name, _, config = re.sub(r'[:/][\d.*]+$', '', dataset).partition('/')
  info = _DATASETS.get(name)
  return info if info and config in ('', info.config or config) else None
