"""What a data set name implies: its splits and whether mirrored images make sense."""

from __future__ import annotations

import dataclasses

from vit_jax.data import source


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """Defaults for one data set; the fields of a config override them.

  Attributes:
    train_split: in TFDS notation.
    eval_split: in TFDS notation; 'none' when there is nothing to evaluate on.
    flip: whether training mirrors images at random: not where left and right matter (digits).
  """

  train_split: str
  eval_split: str
  flip: bool = True


# The data sets of the paper's section 4.1, with those splits on which results are reported.
_DATASETS = {
    'cifar10': DatasetInfo('train', 'test'),
    'cifar100': DatasetInfo('train', 'test'),
    'digits': DatasetInfo('train', 'test', flip=False),
    'fashion_mnist': DatasetInfo('train', 'test'),
    'imagenet2012': DatasetInfo('train', 'validation'),
    # Prepared by a builder of your own; there is no official validation split.
    'imagenet21k': DatasetInfo('train[51200:]', 'train[:51200]'),
    'mnist': DatasetInfo('train', 'test', flip=False),
    'oxford_flowers102': DatasetInfo('train+validation', 'test'),  # 2,040 images to train on
    'oxford_iiit_pet': DatasetInfo('train', 'test'),
    'svhn_cropped': DatasetInfo('train', 'test', flip=False),
}
_EVAL_SPLITS = ('validation', 'val', 'test')


def describe(dataset: str, data_dir: str | None = None) -> DatasetInfo:
  """Returns the defaults for a data set of the paper, any other TFDS data set, or a folder.

  Args:
    dataset: TFDS name or folder, as for `open_source`.
    data_dir: where to look up the splits of a data set that the table does not have.

  Raises:
    InputError: such a data set is not there.
  """
  name = dataset.split(':')[0].split('/')[0]
  if name in _DATASETS and not source.is_folder(dataset):
    return _DATASETS[name]
  splits = source.split_names(dataset, data_dir)
  return DatasetInfo('train', next((s for s in _EVAL_SPLITS if s in splits), 'none'))
