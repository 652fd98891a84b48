import pytest

from vit_jax.data.open_source import open_source
from vit_jax.dedup.example_ids import ExampleIds, parse_dataset


@pytest.mark.parametrize(
  'text, want',
  [
    ('cifar10', ('cifar10', 'DEFAULT')),
    ('cifar10:test', ('cifar10', 'test')),
    ('imagenet2012:5.1.0', ('imagenet2012:5.1.0', 'DEFAULT')),
    ('eurosat/rgb:2.*.*:train[80%:]', ('eurosat/rgb:2.*.*', 'train[80%:]')),
    ('cifar10:test+train[:9]', ('cifar10', 'test+train[:9]')),
    ('./a folder:val', ('./a folder', 'val')),
    ('hf:cifar10', ('hf:cifar10', 'DEFAULT')),
    ('hf:cifar10:test', ('hf:cifar10', 'test')),
    ('wds:gs://b/a-*.tar:val[:9]', ('wds:gs://b/a-*.tar', 'val[:9]')),
  ],
)
def test_dataset_and_split(text, want):
  assert parse_dataset(text, 'DEFAULT') == want


@pytest.mark.parametrize('file_format', [0, 1], ids=['array_record', 'tfrecord'])
@pytest.mark.parametrize('split', ['train', 'train[7:30]', 'test[3:]+train[:-5]', 'all'])
def test_an_id_is_the_same_example_whatever_the_slice(shapes, split, file_format):
  examples = ExampleIds('shapes', split, shapes[file_format])
  whole = {name: open_source('shapes', name, shapes[0]) for name in ('train', 'test')}
  assert len(examples) == len(examples.source) == sum(b - a for _, a, b in examples.ranges)
  for i in range(len(examples)):
    name, index = examples.id(i)
    assert examples.source[i]['image'] == whole[name][index]['image']
