"""Read TFDS datasets from remote storage: the same records as from a disk, in the same order."""

import pickle
import shutil

import fsspec
import pytest

from tests.helpers.shapes import NUM_TRAIN, read_all
from tests.helpers.storage import put
from vit_jax.data import remote, storage
from vit_jax.data.batch import ReadOptions
from vit_jax.data.open_source import open_source, split_names
from vit_jax.data.pipeline import eval_batches, train_batches
from vit_jax.data.preprocess import make_train_preprocess
from vit_jax.errors import InputError


@pytest.fixture
def data_dir(shapes, request):
  """Return the address of a copy of the dataset as TFRecord."""
  address = f'memory://{request.node.originalname}/{id(request)}'
  put(shapes[1], address)
  return address


@pytest.fixture
def directory(data_dir):
  return f'{data_dir}/shapes/1.2.0'


@pytest.mark.parametrize(
  'split', ['train', 'test', 'train[3:17]', 'train[90%:]+test[:5]', 'train[2:4]+train[3:5]', 'all']
)
def test_the_records_are_those_on_the_disk(shapes, data_dir, split):
  expected = open_source('shapes', split, shapes[1])
  opened = open_source('shapes', split, data_dir)
  assert read_all(opened) == read_all(expected)
  assert [opened.location(i) for i in range(len(opened))] == [
    expected.location(i).replace(shapes[1], data_dir) for i in range(len(opened))
  ]
  assert opened.class_names == expected.class_names == ['disc', 'ring', 'star']
  assert opened.is_remote and not expected.is_remote
  assert split_names('shapes', data_dir) == split_names('shapes', shapes[1])
  assert read_all(pickle.loads(pickle.dumps(opened))) == read_all(expected)


def test_the_batches_are_those_from_the_disk(shapes, data_dir):
  def batches(data_dir):
    preprocess = make_train_preprocess('inception', 8)
    source = open_source('shapes', 'train', data_dir)
    options = ReadOptions(18)
    with train_batches(source, preprocess, options, seed=0) as train:
      first = [next(train) for _ in range(5)]
    with eval_batches(source, lambda image, rng: preprocess(image, rng), options) as evaluation:
      return pickle.dumps((first, list(evaluation)))

  assert batches(shapes[1]) == batches(data_dir)


def test_many_records_are_read_at_once(data_dir, monkeypatch):
  """The reads of a piece have all begun before the first is waited for."""
  opened = open_source('shapes', 'train', data_dir)
  events = []
  start = remote.start_reading

  def noted(*args):
    wait = start(*args)
    events.append('start')
    return lambda: (events.append('wait'), wait())[1]

  monkeypatch.setattr(remote, 'start_reading', noted)
  preprocess = make_train_preprocess('inception', 8)
  with train_batches(opened, preprocess, ReadOptions(16, num_threads=1), seed=0) as batches:
    next(batches)
  assert events[:34] == ['start', 'wait', *['start'] * 16, *['wait'] * 16]  # one for the shape


def test_array_record_must_be_mounted(shapes):
  put(shapes[0], 'memory://array')
  with pytest.raises(
    InputError,
    match='^memory://array/shapes/1.2.0 is stored as array_record, which can only be read from a '
    r'file system. Mount the bucket \(with gcsfuse or mountpoint-s3, for example\) and set '
    'data_dir to the mount, or prepare the dataset again with --file_format=tfrecord.$',
  ):
    open_source('shapes', 'train', 'memory://array')


def test_a_missing_shard(directory, data_dir):
  path = f'{directory}/shapes-train.tfrecord-00001-of-00004'
  fsspec.filesystem('memory').rm(path)
  with pytest.raises(
    InputError, match=f'^The file {path} of the dataset is missing. Prepare the dataset again.$'
  ):
    open_source('shapes', 'train', data_dir)


def test_a_shard_of_another_dataset(directory, data_dir):
  path = f'{directory}/shapes-train.tfrecord-0000%d-of-00004'
  remote.write_file(path % 0, storage.read(path % 2))
  opened = open_source('shapes', 'train', data_dir)
  with pytest.raises(InputError, match='holds 11 records instead of 10. Prepare the dataset again'):
    read_all(opened)


def test_a_file_that_was_replaced_by_one_of_the_same_size(directory, data_dir):
  opened = open_source('shapes', 'train', data_dir)
  path = f'{directory}/shapes-train.tfrecord-00001-of-00004'
  content = storage.read(path)
  remote.write_file(path, b'\0' * 8 + content[8:])
  with pytest.raises(
    InputError, match=f'^The records of {path} are not where its index says, so the file has been '
  ):
    opened[10]
  assert opened[11] and opened[9]
  remote.write_file(path, content[:20])
  with pytest.raises(ValueError, match=r'^the record is damaged \(the file ends after') as e:
    opened[10]
  assert not isinstance(e.value, InputError)


def test_a_damaged_record(directory, data_dir):
  path = f'{directory}/shapes-train.tfrecord-00000-of-00004'
  content = bytearray(storage.read(path))
  content[12:20] = b'\xff' * 8
  remote.write_file(path, bytes(content))
  opened = open_source('shapes', 'train', data_dir)
  with pytest.raises(ValueError, match='^the record is damaged') as e:
    opened[0]
  assert not isinstance(e.value, InputError)
  assert opened.location(0) == f'{path}, record 0'
  assert len([opened[i] for i in range(1, NUM_TRAIN)]) == NUM_TRAIN - 1


@pytest.mark.slow
def test_reading_in_another_process(shapes, tmp_path):
  """Worker processes open the file system again."""
  data_dir = shutil.copytree(shapes[1], tmp_path / 'data')  # gets an index
  expected = open_source('shapes', 'train', shapes[1])
  opened = open_source('shapes', 'train', f'file://{data_dir}')
  assert opened.is_remote
  preprocess = make_train_preprocess('inception', 8)
  options = ReadOptions(8, num_workers=1)
  rows = []
  for source in (expected, opened):
    with train_batches(source, preprocess, options, seed=0) as batches:
      rows.append(pickle.dumps([next(batches) for _ in range(2)]))
  assert rows[0] == rows[1]
