"""VTAB-1k: labels, splits, and reading every task with the real features."""

import json

import cv2
import numpy as np
import pytest

from tests.helpers.vtab_files import TEST_SIZES, write_dataset
from vit_jax.data import catalog
from vit_jax.data import vtab_tasks as data
from vit_jax.data.batch import ReadOptions
from vit_jax.data.open_source import describe_dataset, open_source, split_names
from vit_jax.data.pipeline import train_batches
from vit_jax.data.preprocess import make_eval_preprocess, make_train_preprocess
from vit_jax.data.splits import split_ranges
from vit_jax.errors import InputError
from vit_jax.transfer import vtab

# Labels, computed by hand.


def features(**lists):
  """Return values such as {'objects/type': [0, 1]} as the features of a tf.train.Example."""
  from tensorflow_datasets.proto import tf_example_pb2

  example = tf_example_pb2.Example()
  for key, values in lists.items():
    feature = example.features.feature[key.replace('__', '/')]
    kind = feature.float_list if any(isinstance(v, float) for v in values) else feature.int64_list
    kind.value.extend(values)
  return tf_example_pb2.Example.FromString(example.SerializeToString()).features.feature


@pytest.mark.parametrize('count', range(3, 11))
def test_clevr_count(count):
  assert data.clevr_count(features(objects__size=[1] * count)) == [count - 3]


@pytest.mark.parametrize(
  'depths, label',
  [
    ([7.9, 12.0], 0),
    ([8.0], 0),
    ([8.001, 9.4], 1),
    ([8.5], 1),
    ([9.0], 2),
    ([11.0, 9.01], 3),
    ([9.75], 4),
    ([10.0], 4),
    ([50.0, 10.5], 5),
  ],
)
def test_clevr_distance(depths, label):
  coordinates = [x for depth in depths for x in (300.0, 1.0, depth)]
  assert data.clevr_distance(features(objects__pixel_coords=coordinates)) == [label]


@pytest.mark.parametrize(
  'objects, label',
  [
    ([(0, 7.0)], 0),
    ([(1, 8.0)], 0),
    ([(2, 8.01)], 1),
    ([(0, 20.0)], 1),
    ([(0, 20.5), (1, 70.0)], 2),
    ([(3, 2.0), (0, 30.0)], 2),
    ([(4, 5.0), (7, -1000.0)], 3),
    ([], 3),
  ],
)
def test_kitti_distance(objects, label):
  """Cars, vans and trucks (types 0, 1, 2) count. Pedestrians and other objects do not."""
  assert data.kitti_distance(
    features(
      objects__type=[kind for kind, _ in objects],
      objects__location=[x for _, z in objects for x in (-3.0, 1.0, z)],
    )
  ) == [label]


def test_dsprites_labels():
  x = [data.TASKS['dsprites_location'].label(features(label_x_position=[i])) for i in range(32)]
  assert x == [[i // 2] for i in range(32)]
  angles = [
    data.TASKS['dsprites_orientation'].label(features(label_orientation=[i]))[0] for i in range(40)
  ]
  assert angles == np.floor(np.arange(40) / 2.5).astype(int).tolist()
  assert np.bincount(angles).tolist() == [3, 2] * 8


@pytest.mark.parametrize(
  'label, given',
  [
    (data.clevr_distance, {}),
    (data.TASKS['dsprites_location'].label, {}),
    (data.kitti_distance, dict(objects__type=[0, 0], objects__location=[1.0, 2.0, 3.0])),
  ],
)
def test_what_is_not_annotated_is_damage(label, given):
  with pytest.raises((IndexError, ValueError)):
    label(features(**given))


# Splits.


def test_the_tasks_are_those_of_the_benchmark():
  groups = [task.group for task in data.TASKS.values()]
  assert [groups.count(group) for group in data.GROUPS] == [7, 4, 8]
  assert {name: task.info().splits for name, task in data.TASKS.items()} == {
    name: dict(train800=800, val200=200, train800val200=1000, test=size)
    for name, size in TEST_SIZES.items()
  }
  classes = [data.TASKS[name].num_classes for name in data.TASKS]
  assert classes == [102, 100, 47, 102, 37, 397, 10, 2, 10, 45, 5, 8, 6, 6, 4, 16, 16, 18, 9]


@pytest.mark.parametrize('name', data.TASKS)
def test_no_image_is_in_two_splits(name):
  task = data.TASKS[name]
  sizes = {k: [v] for k, v in catalog.lookup(task.dataset).splits.items()}
  ranges = [
    r for split in ('train800', 'val200', 'test') for r in split_ranges(task.splits[split], sizes)
  ]
  for i, (part, start, stop) in enumerate(ranges):
    assert all(part != other or stop <= first or last <= start for other, first, last in ranges[:i])


# Reading.


def expected_label(name, i):
  task = data.TASKS[name]
  if name.startswith('dsprites'):
    return i % 32 // 2 if name == 'dsprites_location' else int(i % 40 / 2.5)
  return i % task.num_classes


@pytest.mark.parametrize('name', data.TASKS)
def test_every_task_from_files_to_a_batch(vtab_dir, name):
  task = data.TASKS[name]
  opened = {split: open_source(f'vtab/{name}', split, str(vtab_dir)) for split in task.splits}
  assert {split: len(s) for split, s in opened.items()} == task.info().splits
  assert {s.num_classes for s in opened.values()} == {task.num_classes}
  sizes = {k: [v] for k, v in catalog.lookup(task.dataset).splits.items()}
  for split, s in opened.items():
    first = split_ranges(task.splits[split], sizes)[0][1]
    assert [s[i]['label'] for i in range(4)] == [
      expected_label(name, (first + i) % 4) for i in range(4)
    ]
    assert f'-{split_ranges(task.splits[split], sizes)[0][0]}.tfrecord' in s.location(0)
  both, val = opened['train800val200'], opened['val200']
  assert both[799] == opened['train800'][799] and both[800] == val[0] and both[999] == val[199]

  config = vtab.task_config(name, {'model': 'ViT-Ti/8', 'image_size': 16})
  preprocess = make_train_preprocess(
    config.preset, 16, resize_size=config.resize_size, flip=config.flip == 'yes'
  )
  with train_batches(both, preprocess, ReadOptions(8), seed=0) as batches:
    batch = next(batches)
  assert batch['image'].shape == (8, 16, 16, 3) and batch['mask'].all()
  assert set(batch['label'].tolist()) <= {expected_label(name, i) for i in range(4)}
  image = make_eval_preprocess(config.preset, 16)(opened['test'][0]['image'])
  assert image.shape == (16, 16, 3) and image.max() > 100


def test_dsprites_are_black_and_white(vtab_dir):
  opened = open_source('vtab/dsprites_location', 'test', str(vtab_dir))
  image = cv2.imdecode(np.frombuffer(opened[0]['image'], np.uint8), cv2.IMREAD_UNCHANGED)
  first = 663552 % 4
  expected = np.random.default_rng(first).integers(0, 256, (64, 64, 1), np.uint8) // 128 * 255
  np.testing.assert_array_equal(image, np.repeat(expected, 3, -1))


@pytest.mark.parametrize(
  'name, crop, flip',
  [
    ('pets', True, True),
    ('dsprites_location', False, False),
    ('clevr_count', False, True),
    ('dsprites_orientation', True, False),
    ('smallnorb_azimuth', True, False),
  ],
)
def test_augmentation(vtab_dir, name, crop, flip):
  """Without a crop, training images equal evaluation images or their mirror images."""
  c = vtab.task_config(name, {'model': 'ViT-Ti/8'})
  assert (c.image_size, c.resize_size, c.flip) == (
    384,
    448 if crop else 384,
    'yes' if flip else 'no',
  )
  record = open_source(f'vtab/{name}', 'train800', str(vtab_dir))[0]['image']
  train = make_train_preprocess('bit', 384, resize_size=c.resize_size, flip=flip)
  plain = make_eval_preprocess('bit', 384)(record)
  seen = {train(record, np.random.default_rng(i)).tobytes() for i in range(12)}
  if crop:
    assert len(seen) > 6
  else:
    assert seen == {plain.tobytes(), plain[:, ::-1].tobytes()} if flip else {plain.tobytes()}


def test_described_as_a_dataset(vtab_dir):
  info = describe_dataset('vtab/dmlab')
  assert (info.train_split, info.eval_split) == ('train800val200', 'test')
  assert (info.tune_split, info.dev_split) == ('train800', 'val200')
  assert split_names('vtab/dmlab') == ['train800', 'val200', 'train800val200', 'test']
  with pytest.raises(
    InputError,
    match="Unknown VTAB task 'dmlap'. Did you mean 'dmlab'\\? Available: caltech101, cifar100",
  ):
    describe_dataset('vtab/dmlap')
  with pytest.raises(
    InputError,
    match="Unknown vtab/dmlab split 'train'. Did you mean 'train800'\\? Available: train800",
  ):
    open_source('vtab/dmlab', 'train', str(vtab_dir))


@pytest.mark.parametrize('name', ['pets', 'eurosat'])
def test_a_dataset_of_another_size(tmp_path, name):
  write_dataset(tmp_path, data.TASKS[name].dataset, change=1)
  with pytest.raises(
    InputError, match='has .* examples in (train|test) instead of .*. Prepare the dataset again.'
  ):
    open_source(f'vtab/{name}', 'val200', str(tmp_path))


def test_caltech_as_other_versions_split_it(tmp_path):
  write_dataset(tmp_path, 'caltech101')
  path = next(tmp_path.glob('caltech101/*/dataset_info.json'))
  info = json.loads(path.read_text())
  for split in info['splits']:
    change = dict(train=-1, test=1)[split['name']]
    split['shardLengths'][-1] = str(int(split['shardLengths'][-1]) + change)
  path.write_text(json.dumps(info))
  assert len(open_source('vtab/caltech101', 'test', str(tmp_path))) == 6085
  assert len(open_source('vtab/caltech101', 'train800val200', str(tmp_path))) == 1000
