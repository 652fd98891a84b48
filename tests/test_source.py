"""Sources: both TFDS formats, digits, folders, and what is said when the data is not right."""

import concurrent.futures
import json
import os
import pathlib
import pickle
import resource
import shutil
import struct
import subprocess
import sys

import cv2
import numpy as np
import pytest
from sklearn import datasets

from vit_jax.data import catalog
from vit_jax.data import prepared
from vit_jax.data import source
from vit_jax.data import tfrecord
from vit_jax.errors import InputError

NUM_TRAIN, NUM_TEST, NUM_SHARDS = 41, 11, 4


def png(seed, size=5):
  image = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
  return cv2.imencode('.png', image)[1].tobytes()


def crc32c(data):
  """The checksum of RFC 3720, bit by bit."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc ^= byte
    for _ in range(8):
      crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
  return crc ^ 0xFFFFFFFF


def masked_crc32c(data):
  crc = crc32c(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_tfrecord(path, records):
  with open(path, 'wb') as f:
    for record in records:
      length = struct.pack('<Q', len(record))
      f.write(length + struct.pack('<I', masked_crc32c(length)))
      f.write(record + struct.pack('<I', masked_crc32c(record)))


def write_shapes(data_dir, image_key='image', label_key='label', label_feature=None,
                 supervised_keys=None, num_shards=NUM_SHARDS, first_label=0):
  """Prepares a TFDS data set 'shapes' as ArrayRecord without TensorFlow."""
  import tensorflow_datasets as tfds

  class Shapes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = 'shapes'
    VERSION = tfds.core.Version('1.2.0')

    def _info(self):
      return tfds.core.DatasetInfo(
          builder=self, supervised_keys=supervised_keys or (image_key, label_key),
          features=tfds.features.FeaturesDict({
              image_key: tfds.features.Image(shape=(None, None, 3)),
              label_key: label_feature or tfds.features.ClassLabel(names=['disc', 'ring', 'star']),
              'note': tfds.features.Text()}))

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples(0, NUM_TRAIN),
              'test': self._generate_examples(1000, NUM_TEST)}

    def _generate_examples(self, first, count):
      for i in range(first, first + count):
        yield i, {image_key: png(i), label_key: first_label if i == 0 else i % 3, 'note': f'{i}'}

  builder = Shapes(data_dir=str(data_dir), file_format='array_record')
  builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(num_shards=num_shards))
  return pathlib.Path(builder.data_dir)


def to_tfrecord(directory, target):
  """Writes a copy of an ArrayRecord data set as TFRecord."""
  from array_record.python import array_record_module
  shutil.copytree(directory, target, ignore=shutil.ignore_patterns('*array_record*'))
  for path in directory.glob('*array_record*'):
    reader = array_record_module.ArrayRecordReader(str(path))
    records = [reader.read([i])[0] for i in range(reader.num_records())]
    write_tfrecord(target / path.name.replace('array_record', 'tfrecord'), records)
  info = json.loads((target / 'dataset_info.json').read_text())
  info['fileFormat'] = 'tfrecord'
  (target / 'dataset_info.json').write_text(json.dumps(info))


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
  """Two data_dirs with the same data set, in the order (array_record, tfrecord)."""
  root = tmp_path_factory.mktemp('shapes')
  directory = write_shapes(root / 'a')
  to_tfrecord(directory, root / 't' / 'shapes' / '1.2.0')
  return str(root / 'a'), str(root / 't')


@pytest.fixture
def tfrecords(shapes, tmp_path):
  """A TFRecord data_dir that the test may damage."""
  shutil.copytree(os.path.join(shapes[1], 'shapes'), tmp_path / 'shapes')
  return tmp_path


@pytest.fixture(scope='module')
def digits_dir(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp('digits')
  source.open_source('digits', 'train', str(data_dir))
  return str(data_dir)


def read_all(opened):
  return [opened[i] for i in range(len(opened))]


def run_python(code, *args):
  environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
  return subprocess.run([sys.executable, '-c', code, *map(str, args)], env=environment,
                        capture_output=True, text=True, timeout=120, check=False)


# TFDS data sets.


@pytest.mark.parametrize('split, count', [
    ('train', NUM_TRAIN), ('test', NUM_TEST), ('train[3:17]', 14), ('train[-5:]', 5),
    ('train[90%:]+test[:5]', 9), ('test+train', NUM_TEST + NUM_TRAIN), ('train[:1shard]', 10),
    ('train[2:4]+train[3:5]', 4), ('all', NUM_TRAIN + NUM_TEST)])
def test_both_formats_hold_the_same_records(shapes, split, count):
  a, t = (source.open_source('shapes', split, data_dir) for data_dir in shapes)
  assert len(a) == len(t) == count
  assert read_all(a) == read_all(t)
  assert a.num_classes == t.num_classes == 3
  assert a.class_names == t.class_names == ['disc', 'ring', 'star']
  assert not a.apply_exif


@pytest.mark.parametrize('which', [0, 1], ids=['array_record', 'tfrecord'])
def test_every_record_is_the_one_that_was_written(shapes, which):
  opened = source.open_source('shapes', 'train', shapes[which])
  written = {png(i): i % 3 for i in range(NUM_TRAIN)}
  assert {r['image']: r['label'] for r in read_all(opened)} == written
  assert len({opened.record_name(i) for i in range(NUM_TRAIN)}) == NUM_TRAIN
  assert len({opened.record_name(i).split(',')[0] for i in range(NUM_TRAIN)}) == NUM_SHARDS
  # A slice gives a record the same name as the whole split.
  part = source.open_source('shapes', 'train[17:23]', shapes[which])
  assert [part.record_name(i) for i in range(6)] == [opened.record_name(i) for i in range(17, 23)]
  with pytest.raises(IndexError):
    opened[NUM_TRAIN]


@pytest.mark.parametrize('which', [0, 1], ids=['array_record', 'tfrecord'])
def test_threads_and_pickling(shapes, which):
  expected = read_all(source.open_source('shapes', 'train', shapes[which]))
  opened = source.open_source('shapes', 'train', shapes[which])
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert list(pool.map(opened.__getitem__, list(range(NUM_TRAIN)) * 5)) == expected * 5
  assert read_all(pickle.loads(pickle.dumps(opened))) == expected


def test_reading_imports_no_tensorflow_and_needs_no_builder_code(shapes, digits_dir):
  code = '''
import sys
from vit_jax.data import catalog, source
assert 'tensorflow_datasets' not in sys.modules  # cheap to import
for name, data_dir in zip(['shapes', 'shapes', 'digits'], sys.argv[1:]):
  opened = source.open_source(name, 'train+test', data_dir)
  assert all(opened[i]['image'] for i in range(len(opened)))
  catalog.describe(name, data_dir)
assert 'tensorflow' not in sys.modules
'''
  result = run_python(code, *shapes, digits_dir)
  assert result.returncode == 0, result.stderr


def test_the_newest_or_the_named_version_is_read(shapes, tmp_path):
  for version in ('1.2.0', '1.10.0', '1.9.0'):
    shutil.copytree(os.path.join(shapes[0], 'shapes', '1.2.0'), tmp_path / 'shapes' / version)
  (tmp_path / 'shapes' / '2.0.0').mkdir()  # of a preparation that did not end
  assert prepared.find('shapes', str(tmp_path)).endswith('/1.10.0')
  assert prepared.find('shapes:1.9.0', str(tmp_path)).endswith('/1.9.0')
  assert prepared.find('shapes/1.9.0', str(tmp_path)).endswith('/1.9.0')
  assert prepared.find('shapes:1.2.*', str(tmp_path)).endswith('/1.2.0')
  with pytest.raises(InputError, match=r'prepared there are 1\.2\.0, 1\.9\.0, 1\.10\.0'):
    prepared.find('shapes:3.0.0', str(tmp_path))


def test_configs(shapes, tmp_path):
  for config in ('red', 'blue'):
    shutil.copytree(os.path.join(shapes[0], 'shapes', '1.2.0'),
                    tmp_path / 'shapes' / config / '1.2.0')
  assert prepared.find('shapes/blue', str(tmp_path)).endswith('shapes/blue/1.2.0')
  assert prepared.find('shapes/red:1.2.0', str(tmp_path)).endswith('shapes/red/1.2.0')
  with pytest.raises(InputError, match='what is prepared there is shapes/blue, shapes/red'):
    prepared.find('shapes', str(tmp_path))
  (tmp_path / 'shapes' / '.config').mkdir()
  (tmp_path / 'shapes' / '.config' / 'metadata.json').write_text('{"default_config_name": "red"}')
  assert prepared.find('shapes', str(tmp_path)).endswith('shapes/red/1.2.0')


def test_the_default_data_dir_is_that_of_tfds(shapes, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', shapes[1])
  assert len(source.open_source('shapes', 'test')) == NUM_TEST


def test_other_names_of_image_and_label(tmp_path):
  write_shapes(tmp_path, image_key='photo', label_key='kind')
  opened = source.open_source('shapes', 'train', str(tmp_path))
  assert {r['image']: r['label'] for r in read_all(opened)} == {
      png(i): i % 3 for i in range(NUM_TRAIN)}


def test_a_data_set_without_class_label(tmp_path):
  write_shapes(tmp_path, label_feature=np.int64)
  with pytest.raises(InputError, match='features are image: Image, label: .*, note: Text'):
    source.open_source('shapes', 'train', str(tmp_path))


def test_a_label_out_of_range(tmp_path):
  write_shapes(tmp_path, first_label=-1)
  opened = source.open_source('shapes', 'train', str(tmp_path))
  with pytest.raises(InputError, match=r'record \d+ has the label -1, not one in \[0, 3\)'):
    read_all(opened)


@pytest.mark.parametrize('split, message', [
    ('val', "no split 'val'; the splits are train, test"),
    ('train+valid[:3]', "no split 'valid'; the splits are train, test"),
    ('train[:99]', r"bad split 'train\[:99\]': .*41 examples"),
    ('train[:x]', r"bad split 'train\[:x\]'"),
    ('train[5:5]', 'holds no examples')])
def test_bad_splits(shapes, split, message):
  with pytest.raises(InputError, match=message):
    source.open_source('shapes', split, shapes[0])


@pytest.mark.parametrize('dataset, message', [
    ('cifarr10', "no data set 'cifarr10'; did you mean cifar10 or .*a folder"),
    ('cifar10', 'not prepared in DIR; prepare it with '
                '`python -m vit_jax.tools.prepare cifar10 --data_dir=DIR`'),
    ('imagenet2012', 'tools.prepare imagenet2012 .*into DIR/downloads/manual: .*'
                     'ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar'),
    ('coco', 'tools.prepare coco '),  # TFDS's own code for it imports TensorFlow
    ('eurosat/rgbb', "eurosat has no config 'rgbb'; it has rgb, all"),
    ('jft_300m', 'JFT-300M is not public: give the path of a folder'),
    ('imagenet21k', 'ImageNet-21k is not in TFDS .*give the path of a folder'),
    ('my photos', "'my photos' is neither a data set name .* nor a folder")])
def test_missing_data_sets(tmp_path, dataset, message):
  with pytest.raises(InputError, match=message.replace('DIR', str(tmp_path))) as e:
    source.open_source(dataset, 'train', str(tmp_path))
  assert '\n' not in str(e.value)


def test_a_remote_data_dir():
  with pytest.raises(InputError, match='gs://bucket is not a local directory'):
    source.open_source('cifar10', 'train', 'gs://bucket')


# Damaged files.


def shard(tfrecords, index=1):
  return tfrecords / 'shapes' / '1.2.0' / f'shapes-train.tfrecord-{index:05d}-of-{NUM_SHARDS:05d}'


def test_a_missing_shard(tfrecords):
  shard(tfrecords).unlink()
  with pytest.raises(InputError, match=f'lacks its file {shard(tfrecords)}'):
    source.open_source('shapes', 'train', str(tfrecords))


@pytest.mark.parametrize('keep, message', [
    (-1, 'record 9 reaches beyond its end'), (5, 'ends inside record 0'),
    (-300, r'record \d reaches beyond'), (0, 'holds 0 records instead of 10')])
def test_a_truncated_shard(tfrecords, keep, message):
  data = shard(tfrecords).read_bytes()
  shard(tfrecords).write_bytes(data[:keep])
  opened = source.open_source('shapes', 'train', str(tfrecords))
  with pytest.raises(InputError, match=f'{shard(tfrecords)}.*{message}'):
    read_all(opened)


def test_a_shard_of_another_length(tfrecords):
  shutil.copy(shard(tfrecords, 0), shard(tfrecords, 1))
  write_tfrecord(shard(tfrecords), [b'x'] * 12)
  opened = source.open_source('shapes', 'train', str(tfrecords))
  with pytest.raises(InputError, match='holds 12 records instead of 10: prepare .* again'):
    read_all(opened)


def test_a_flipped_length_is_noticed(tfrecords):
  data = bytearray(shard(tfrecords).read_bytes())
  for bit in range(64):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    shard(tfrecords).write_bytes(changed)
    opened = source.open_source('shapes', 'train', str(tfrecords))
    with pytest.raises((InputError, ValueError)):
      read_all(opened)


def test_a_damaged_record_is_a_value_error_and_the_others_are_read(tfrecords):
  records = [b'\xff\xff not a proto', b''] + [b''] * 8
  expected = source.open_source('shapes', 'train', str(tfrecords))[0]
  write_tfrecord(shard(tfrecords), records)
  opened = source.open_source('shapes', 'train', str(tfrecords))
  for index in (10, 11):
    with pytest.raises(ValueError, match='the record is damaged') as e:
      opened[index]
    assert not isinstance(e.value, InputError)
  assert opened.record_name(10) == f'{shard(tfrecords)}, record 0'
  assert opened[0] == expected


def test_index_of_an_empty_record_and_an_empty_file(tmp_path):
  write_tfrecord(tmp_path / 'a', [b'', b'abc'])
  reader = tfrecord.TFRecordReader(str(tmp_path / 'a'))
  assert [reader.read(i) for i in range(reader.num_records())] == [b'', b'abc']
  (tmp_path / 'b').write_bytes(b'')
  assert tfrecord.TFRecordReader(str(tmp_path / 'b')).num_records() == 0
  with pytest.raises(OSError):
    tfrecord.TFRecordReader(str(tmp_path / 'c'))


@pytest.mark.parametrize('damage', [lambda d: d[:len(d) // 2], lambda d: b'', lambda d: b'x' * 99])
def test_a_damaged_array_record_file(shapes, tmp_path, damage):
  shutil.copytree(os.path.join(shapes[0], 'shapes'), tmp_path / 'shapes')
  path = (tmp_path / 'shapes' / '1.2.0' / shard(tmp_path).name.replace('tfrecord', 'array_record'))
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(InputError, match=f'{path} (cannot be read|holds 0 records)'):
    read_all(source.open_source('shapes', 'train', str(tmp_path)))


def test_a_flipped_byte_in_an_array_record_file(shapes, tmp_path):
  shutil.copytree(os.path.join(shapes[0], 'shapes'), tmp_path / 'shapes')
  path = (tmp_path / 'shapes' / '1.2.0' / shard(tmp_path).name.replace('tfrecord', 'array_record'))
  data = bytearray(path.read_bytes())
  data[300] ^= 1  # inside the first record
  path.write_bytes(data)
  opened = source.open_source('shapes', 'train', str(tmp_path))
  with pytest.raises(ValueError, match='the record is damaged') as e:
    read_all(opened)
  assert not isinstance(e.value, InputError)


@pytest.mark.parametrize('file, text', [
    ('dataset_info.json', '{"name": "shapes", '), ('features.json', None),
    ('features.json', '{'), ('dataset_info.json', '{}')])
def test_a_damaged_description(tfrecords, file, text):
  path = tfrecords / 'shapes' / '1.2.0' / file
  if text is None:
    path.unlink()
  else:
    path.write_text(text)
  with pytest.raises(InputError, match='description of the data set in .*1.2.0 cannot be read'):
    source.open_source('shapes', 'train', str(tfrecords))


@pytest.mark.parametrize('hard, ok', [(4096, True), (48, False)])
def test_more_shards_than_open_files_allowed(shapes, tmp_path, hard, ok):
  # As with ImageNet's 1,024 shards and `ulimit -n 1024`.
  directory = tmp_path / 'shapes' / '1.2.0'
  shutil.copytree(os.path.join(shapes[1], 'shapes', '1.2.0'), directory)
  records = [record for index in range(NUM_SHARDS) for record in tfrecord_records(
      shard(tmp_path, index))] * 3
  for index in range(NUM_SHARDS):
    shard(tmp_path, index).unlink()
  for index, record in enumerate(records):
    write_tfrecord(directory / f'shapes-train.tfrecord-{index:05d}-of-{len(records):05d}', [record])
  info = json.loads((directory / 'dataset_info.json').read_text())
  train = next(s for s in info['splits'] if s['name'] == 'train')
  train['shardLengths'] = ['1'] * len(records)
  (directory / 'dataset_info.json').write_text(json.dumps(info))
  code = '''
import resource, sys
from vit_jax.data import source
import tensorflow_datasets
resource.setrlimit(resource.RLIMIT_NOFILE, (48, int(sys.argv[2])))
opened = source.open_source('shapes', 'train', sys.argv[1])
print(sum(len(opened[i]['image']) for i in range(len(opened))))
'''
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


# The embedded data set.


def test_digits_are_those_of_scikit_learn(digits_dir):
  digits = datasets.load_digits()
  train, test = (source.open_source('digits', split, digits_dir) for split in ('train', 'test'))
  assert (len(train), len(test)) == (1437, 360)
  assert train.num_classes == 10 and train.class_names == list('0123456789')
  order = np.random.RandomState(0).permutation(1797)
  for record, index in zip(read_all(train) + read_all(test), order, strict=True):
    image = cv2.imdecode(np.frombuffer(record['image'], np.uint8), cv2.IMREAD_UNCHANGED)
    assert image.shape == (8, 8) and image.dtype == np.uint8
    np.testing.assert_allclose(image, digits.images[index] / 16 * 255, atol=.5)
    assert record['label'] == digits.target[index]
  assert image.max() == 255
  # The split is part of what accuracies mean: it must never change.
  assert [train[i]['label'] for i in range(10)] == [2, 8, 2, 6, 6, 7, 1, 9, 8, 5]
  assert np.bincount([r['label'] for r in read_all(test)]).tolist() == [
      31, 35, 39, 33, 44, 29, 40, 40, 28, 41]


def test_two_first_uses_at_once(tmp_path):
  code = '''
import sys
from vit_jax.data import digits, source
opened = source.open_source('digits', 'train', sys.argv[1])
print(len(opened), sum(opened[i]['label'] for i in range(len(opened))))
'''
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    results = list(pool.map(lambda _: run_python(code, tmp_path), range(2)))
  assert [r.returncode for r in results] == [0, 0], results[0].stderr + results[1].stderr
  assert results[0].stdout == results[1].stdout == '1437 6424\n'
  assert os.listdir(tmp_path / 'digits') == ['1.0.0']


def test_losing_the_race_to_prepare_digits(digits_dir, tmp_path, monkeypatch):
  from vit_jax.data import digits

  def lose(builder):
    shutil.copytree(os.path.join(digits_dir, 'digits', '1.0.0'), builder.data_dir)
    raise OSError('Directory not empty')

  monkeypatch.setattr(digits.Digits, 'download_and_prepare', lose)
  assert len(source.open_source('digits', 'test', str(tmp_path))) == 360


def test_digits_where_nothing_can_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(InputError, match=f'digits cannot be written to {tmp_path}/file'):
    source.open_source('digits', 'train', str(tmp_path / 'file'))


# A user's folder.


@pytest.fixture
def photos(tmp_path):
  for path in ['train/cat/b.JPG', 'train/cat/a.png', 'train/dog/x.webp', 'train/dog/y.jpeg',
               'train/ant/1.png', 'train/ant/2.bmp', 'val/dog/z.png', 'train/cat/.hidden.png',
               'train/cat/notes.txt', 'train/.cache/no.png', 'train/readme.md']:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(path.encode())
  return tmp_path


def test_a_folder(photos, monkeypatch):
  opened = source.open_source(str(photos), 'train')
  assert opened.class_names == ['ant', 'cat', 'dog'] and opened.num_classes == 3
  assert opened.apply_exif
  expected = [('ant/1.png', 0), ('cat/a.png', 1), ('cat/b.JPG', 1), ('dog/x.webp', 2),
              ('dog/y.jpeg', 2)]
  assert [opened.record_name(i) for i in range(len(opened))] == [
      f'{photos}/train/{path}' for path, _ in expected]
  assert read_all(opened) == [
      {'image': f'train/{path}'.encode(), 'label': label} for path, label in expected]
  val = source.open_source(str(photos), 'val')
  assert read_all(val) == [{'image': b'val/dog/z.png', 'label': 2}]
  assert val.class_names == opened.class_names
  assert read_all(pickle.loads(pickle.dumps(val))) == read_all(val)
  assert len(source.open_source(str(photos), 'train[:40%]+val')) == 3
  assert len(source.open_source(str(photos), 'all')) == 6
  assert read_all(source.open_source(str(photos), 'train[-1:]'))[0]['label'] == 2
  assert source.split_names(str(photos)) == ['train', 'val']
  monkeypatch.chdir(photos.parent)
  assert len(source.open_source(photos.name, 'train')) == 5
  assert len(source.open_source(f'./{photos.name}', 'train')) == 5
  monkeypatch.setenv('HOME', str(photos.parent))
  assert len(source.open_source(f'~/{photos.name}', 'train')) == 5


def test_slices_of_a_folder_are_slices_of_the_list(photos):
  files = [source.open_source(str(photos), 'train').record_name(i) for i in range(5)]
  for start in range(5):
    for stop in range(start + 1, 6):
      part = source.open_source(str(photos), f'train[{start}:{stop}]')
      assert [part.record_name(i) for i in range(len(part))] == files[start:stop]
  with pytest.raises(IndexError):
    part[len(part)]


def test_a_folder_of_strange_names(tmp_path):
  names = ['ü ber.jpg', os.fsdecode(b'\xff\xfe.png'), 'a' * 200 + '.png', '[1].jpeg']
  (tmp_path / 'train' / 'a,b (c)').mkdir(parents=True)
  for name in names:
    (tmp_path / 'train' / 'a,b (c)' / name).write_bytes(os.fsencode(name))
  opened = source.open_source(str(tmp_path), 'train')
  assert sorted(r['image'] for r in read_all(opened)) == sorted(map(os.fsencode, names))


def test_a_file_that_vanished(photos):
  opened = source.open_source(str(photos), 'val')
  (photos / 'val/dog/z.png').unlink()
  with pytest.raises(ValueError, match='cannot be read'):
    opened[0]


def test_bad_folders(photos):
  with pytest.raises(InputError, match="no split 'test'; the splits are train, val"):
    source.open_source(str(photos), 'test')
  (photos / 'val' / 'cow').mkdir()
  with pytest.raises(InputError, match='val/cow is a class that train does not have; .*ant, cat'):
    source.open_source(str(photos), 'val')
  (photos / 'empty' / 'cat').mkdir(parents=True)
  with pytest.raises(InputError, match=r'empty has no images: put \.jpg'):
    source.open_source(str(photos), 'empty')
  with pytest.raises(InputError, match=f'no folder {photos}/nowhere'):
    source.open_source(f'{photos}/nowhere', 'train')
  with pytest.raises(InputError, match='val has no subfolder train: images belong into train/'):
    source.open_source(f'{photos}/val', 'train')
  shutil.rmtree(photos / 'train')
  (photos / 'train').mkdir()
  (photos / 'train' / 'a.png').write_bytes(b'')
  with pytest.raises(InputError, match='train has no class folders'):
    source.open_source(str(photos), 'train')


# The catalog.


def test_catalog(photos, shapes):
  assert catalog.describe('imagenet2012') == catalog.DatasetInfo(
      'train', 'validation', flip=True)
  assert catalog.describe('imagenet2012:5.1.0') == catalog.describe('imagenet2012')
  for name in ('digits', 'mnist', 'svhn_cropped'):
    assert not catalog.describe(name).flip
  for name in ('cifar10', 'cifar100', 'oxford_iiit_pet', 'oxford_flowers102', 'fashion_mnist'):
    assert catalog.describe(name).flip and catalog.describe(name).eval_split == 'test'
  assert catalog.describe('shapes', shapes[0]) == catalog.DatasetInfo('train', 'test')
  assert catalog.describe(str(photos)) == catalog.DatasetInfo('train', 'val')
  shutil.rmtree(photos / 'val')
  assert catalog.describe(str(photos)).eval_split == 'none'
  with pytest.raises(InputError, match='not public'):
    catalog.describe('jft_300m', shapes[0])
