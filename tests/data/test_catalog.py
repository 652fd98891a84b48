"""Compare the catalog with TFDS, and describe datasets that are not in it."""

import pytest

from vit_jax.data import catalog, prepare, tfds_directory
from vit_jax.data.open_source import describe_dataset
from vit_jax.data.splits import split_ranges
from vit_jax.errors import InputError

NOT_IN_TFDS = {'imagenet21k'}
UNLABELED = {'clevr', 'dsprites', 'kitti'}  # datasets without one class per image


@pytest.mark.parametrize(
  'name, train, test, tune, dev',
  [
    ('imagenet2012', 1_281_167, 50_000, 1_268_355, 12_812),
    ('imagenet21k', 14_145_922, 51_200, 14_094_722, 51_200),
    ('cifar10', 50_000, 10_000, 49_000, 1000),
    ('cifar100', 50_000, 10_000, 49_000, 1000),
    ('oxford_iiit_pet', 3680, 3669, 3312, 368),
    ('oxford_flowers102', 2040, 6149, 1836, 204),
    ('fashion_mnist', 60_000, 10_000, 54_000, 6000),
    ('digits', 1437, 360, 1293, 144),
    ('dsprites', 589_824, 73_728, 589_824, 73_728),
    ('eurosat', 21_600, 5400, 16_200, 5400),
    ('dtd', 3760, 1880, 1880, 1880),
  ],
)
def test_splits_of_the_papers_protocol(name, train, test, tune, dev):
  entry = describe_dataset(name)
  assert entry.count(entry.train_split) == train and entry.count(entry.eval_split) == test
  assert entry.count(entry.tune_split) == tune and entry.count(entry.dev_split) == dev


@pytest.mark.parametrize('name', catalog.names())
def test_splits_do_not_overlap(name):
  entry = describe_dataset(name)
  sizes = {split: [size] for split, size in entry.splits.items()}
  ranges = [
    r
    for split in (entry.tune_split, entry.dev_split, entry.eval_split)
    for r in split_ranges(split, sizes)
  ]
  for i, (part, start, stop) in enumerate(ranges):
    assert all(part != other or stop <= first or last <= start for other, first, last in ranges[:i])
  assert entry.preset in ('bit', 'inception')


@pytest.mark.parametrize('name', sorted(set(catalog.names()) - NOT_IN_TFDS))
def test_classes_and_pixels_are_those_of_tfds(name, tmp_path):
  """TFDS knows the number of images only for datasets that it prepared or may download."""
  entry = catalog.lookup(name)
  options = {'config': entry.config} if entry.config else {}
  builder = prepare.builder_class(name)
  if builder is None:
    pytest.skip("TFDS's code for it needs TensorFlow")
  info = builder(data_dir=str(tmp_path), **options).info
  sizes = {split: info.splits[split].num_examples for split in info.splits}
  if name != 'caltech101':  # versions of TFDS differ by one image
    assert sizes in ({}, dict(entry.splits))
  height, width, _ = info.features['image'].shape
  assert entry.pixels == (height if height == width else None)
  if name in UNLABELED:
    assert entry.num_classes is None and not info.supervised_keys
  else:
    label = (info.supervised_keys or ('image', 'label'))[1]
    assert info.features[label].num_classes == entry.num_classes


def test_digits_as_prepared(digits_dir):
  entry, info = (
    describe_dataset('digits'),
    tfds_directory.read_info(tfds_directory.find_directory('digits', digits_dir)),
  )
  assert {name: split.num_examples for name, split in info.splits.items()} == entry.splits


def test_a_row_is_of_one_config():
  assert catalog.lookup('sun397') == catalog.lookup('sun397/tfds:4.0.0') is not None
  assert catalog.lookup('sun397/standard-part1-120k') is None
  assert catalog.lookup('shapes') is None


def test_an_unknown_slice():
  with pytest.raises(InputError, match=r"Cannot read the split 'train\[:9999\]': .*3680 examples"):
    describe_dataset('oxford_iiit_pet').count('train[:9999]')
  assert catalog.DatasetInfo('train', 'test').count('train') is None
