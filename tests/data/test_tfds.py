"""Read TFDS datasets in both file formats, with splits, and refuse damaged files."""

import concurrent.futures
import json
import os
import pickle
import resource
import shutil

import numpy as np
import pytest

from tests.helpers.shapes import (
  NUM_SHARDS,
  NUM_TEST,
  NUM_TRAIN,
  png,
  read_all,
  run_python,
  write_shapes,
  write_tfrecord,
)
from vit_jax.data import tfrecord
from vit_jax.data.open_source import open_source
from vit_jax.errors import InputError


@pytest.fixture
def tfrecords(shapes, tmp_path):
  """Return a data_dir of TFRecord files that the test may damage."""
  shutil.copytree(os.path.join(shapes[1], 'shapes'), tmp_path / 'shapes')
  return tmp_path


@pytest.mark.parametrize(
  'split, count',
  [
    ('train', NUM_TRAIN),
    ('test', NUM_TEST),
    ('train[3:17]', 14),
    ('train[-5:]', 5),
    ('train[90%:]+test[:5]', 9),
    ('test+train', NUM_TEST + NUM_TRAIN),
    ('train[:1shard]', 10),
    ('train[2:4]+train[3:5]', 4),
    ('all', NUM_TRAIN + NUM_TEST),
  ],
)
def test_both_formats_hold_the_same_records(shapes, split, count):
  a, t = (open_source('shapes', split, data_dir) for data_dir in shapes)
  assert len(a) == len(t) == count
  assert read_all(a) == read_all(t)
  assert a.num_classes == t.num_classes == 3
  assert a.class_names == t.class_names == ['disc', 'ring', 'star']
  assert not a.apply_exif


@pytest.mark.parametrize('which', [0, 1], ids=['array_record', 'tfrecord'])
def test_every_record_is_the_one_that_was_written(shapes, which):
  opened = open_source('shapes', 'train', shapes[which])
  written = {png(i): i % 3 for i in range(NUM_TRAIN)}
  assert {r['image']: r['label'] for r in read_all(opened)} == written
  assert len({opened.location(i) for i in range(NUM_TRAIN)}) == NUM_TRAIN
  assert len({opened.location(i).split(',')[0] for i in range(NUM_TRAIN)}) == NUM_SHARDS
  # A slice gives a record the same name as the whole split.
  part = open_source('shapes', 'train[17:23]', shapes[which])
  assert [part.location(i) for i in range(6)] == [opened.location(i) for i in range(17, 23)]
  with pytest.raises(IndexError):
    opened[NUM_TRAIN]


@pytest.mark.parametrize('which', [0, 1], ids=['array_record', 'tfrecord'])
def test_threads_and_pickling(shapes, which):
  expected = read_all(open_source('shapes', 'train', shapes[which]))
  opened = open_source('shapes', 'train', shapes[which])
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert list(pool.map(opened.__getitem__, list(range(NUM_TRAIN)) * 5)) == expected * 5
  assert read_all(pickle.loads(pickle.dumps(opened))) == expected


def test_reading_imports_no_tensorflow_and_needs_no_builder_code(shapes, digits_dir):
  code = """
import sys
from vit_jax.data.open_source import open_source
from vit_jax.data.open_source import describe_dataset
assert 'tensorflow_datasets' not in sys.modules  # cheap to import
for name, data_dir in zip(['shapes', 'shapes', 'digits'], sys.argv[1:]):
  opened = open_source(name, 'train+test', data_dir)
  assert all(opened[i]['image'] for i in range(len(opened)))
  describe_dataset(name, data_dir)
assert 'tensorflow' not in sys.modules
"""
  result = run_python(code, *shapes, digits_dir)
  assert result.returncode == 0, result.stderr


def test_other_names_of_image_and_label(tmp_path):
  write_shapes(tmp_path, image_key='photo', label_key='kind')
  opened = open_source('shapes', 'train', str(tmp_path))
  assert {r['image']: r['label'] for r in read_all(opened)} == {
    png(i): i % 3 for i in range(NUM_TRAIN)
  }


def test_a_dataset_without_class_label(tmp_path):
  write_shapes(tmp_path, label_feature=np.int64)
  with pytest.raises(InputError, match='its features are image: Image, label: .*, note: Text.'):
    open_source('shapes', 'train', str(tmp_path))


def test_a_label_out_of_range(tmp_path):
  write_shapes(tmp_path, first_label=-1)
  opened = open_source('shapes', 'train', str(tmp_path))
  with pytest.raises(InputError, match=r'record \d+ has the label -1, which is not in \[0, 3\)\.'):
    read_all(opened)


# Damaged files.


def shard(tfrecords, index=1):
  return tfrecords / 'shapes' / '1.2.0' / f'shapes-train.tfrecord-{index:05d}-of-{NUM_SHARDS:05d}'


def test_a_missing_shard(tfrecords):
  shard(tfrecords).unlink()
  with pytest.raises(
    InputError, match=f'The file {shard(tfrecords)} of the dataset is missing. Prep'
  ):
    open_source('shapes', 'train', str(tfrecords))


@pytest.mark.parametrize(
  'keep, message',
  [
    (-1, 'record 9 reaches beyond its end'),
    (5, 'ends inside record 0'),
    (-300, r'record \d reaches beyond'),
    (0, 'holds 0 records instead of 10'),
  ],
)
def test_a_truncated_shard(tfrecords, keep, message):
  data = shard(tfrecords).read_bytes()
  shard(tfrecords).write_bytes(data[:keep])
  opened = open_source('shapes', 'train', str(tfrecords))
  with pytest.raises(InputError, match=f'{shard(tfrecords)}.*{message}'):
    read_all(opened)


def test_a_shard_of_another_length(tfrecords):
  shutil.copy(shard(tfrecords, 0), shard(tfrecords, 1))
  write_tfrecord(shard(tfrecords), [b'x'] * 12)
  opened = open_source('shapes', 'train', str(tfrecords))
  with pytest.raises(
    InputError, match='holds 12 records instead of 10. Prepare the dataset again.'
  ):
    read_all(opened)


def test_a_flipped_length_is_noticed(tfrecords):
  data = bytearray(shard(tfrecords).read_bytes())
  for bit in range(64):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    shard(tfrecords).write_bytes(changed)
    opened = open_source('shapes', 'train', str(tfrecords))
    with pytest.raises((InputError, ValueError)):
      read_all(opened)


def test_a_damaged_record_is_a_value_error_and_the_others_are_read(tfrecords):
  records = [b'\xff\xff not a proto', b''] + [b''] * 8
  expected = open_source('shapes', 'train', str(tfrecords))[0]
  write_tfrecord(shard(tfrecords), records)
  opened = open_source('shapes', 'train', str(tfrecords))
  for index in (10, 11):
    with pytest.raises(ValueError, match='the record is damaged') as e:
      opened[index]
    assert not isinstance(e.value, InputError)
  assert opened.location(10) == f'{shard(tfrecords)}, record 0'
  assert opened[0] == expected


@pytest.mark.parametrize('damage', [lambda d: d[: len(d) // 2], lambda d: b'', lambda d: b'x' * 99])
def test_a_damaged_array_record_file(shapes, tmp_path, damage):
  shutil.copytree(os.path.join(shapes[0], 'shapes'), tmp_path / 'shapes')
  path = tmp_path / 'shapes' / '1.2.0' / shard(tmp_path).name.replace('tfrecord', 'array_record')
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(InputError, match=f'(Cannot read {path}: |{path} holds 0 records)'):
    read_all(open_source('shapes', 'train', str(tmp_path)))


def test_a_flipped_byte_in_an_array_record_file(shapes, tmp_path):
  shutil.copytree(os.path.join(shapes[0], 'shapes'), tmp_path / 'shapes')
  path = tmp_path / 'shapes' / '1.2.0' / shard(tmp_path).name.replace('tfrecord', 'array_record')
  data = bytearray(path.read_bytes())
  data[300] ^= 1  # inside the first record
  path.write_bytes(data)
  opened = open_source('shapes', 'train', str(tmp_path))
  with pytest.raises(ValueError, match='the record is damaged') as e:
    read_all(opened)
  assert not isinstance(e.value, InputError)


@pytest.mark.parametrize('hard, ok', [(4096, True), (48, False)])
def test_more_shards_than_open_files_allowed(shapes, tmp_path, hard, ok):
  # As with ImageNet's 1,024 shards and `ulimit -n 1024`.
  directory = tmp_path / 'shapes' / '1.2.0'
  shutil.copytree(os.path.join(shapes[1], 'shapes', '1.2.0'), directory)
  records = [
    record for index in range(NUM_SHARDS) for record in tfrecord_records(shard(tmp_path, index))
  ] * 3
  for index in range(NUM_SHARDS):
    shard(tmp_path, index).unlink()
  for index, record in enumerate(records):
    write_tfrecord(directory / f'shapes-train.tfrecord-{index:05d}-of-{len(records):05d}', [record])
  info = json.loads((directory / 'dataset_info.json').read_text())
  train = next(s for s in info['splits'] if s['name'] == 'train')
  train['shardLengths'] = ['1'] * len(records)
  (directory / 'dataset_info.json').write_text(json.dumps(info))
  code = """
import resource, sys
from vit_jax.data.open_source import open_source
import tensorflow_datasets
resource.setrlimit(resource.RLIMIT_NOFILE, (48, int(sys.argv[2])))
opened = open_source('shapes', 'train', sys.argv[1])
print(sum(len(opened[i]['image']) for i in range(len(opened))))
"""
  if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
    pytest.skip('this machine allows fewer open files')
  result = run_python(code, tmp_path, hard)
  if ok:
    assert int(result.stdout) == 3 * sum(len(png(i)) for i in range(NUM_TRAIN)), result.stderr
  else:
    assert 'InputError' in result.stderr and 'Too many open files' in result.stderr


def tfrecord_records(path):
  reader = tfrecord.TFRecordReader(str(path))
  return [reader.read(i) for i in range(reader.num_records())]
