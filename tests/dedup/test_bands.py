import os
import pathlib
import shutil

import cv2
import numpy as np
import pytest

from tests.helpers.images import smooth_image
from tests.helpers.shapes import NUM_TEST, NUM_TRAIN
from vit_jax.data.open_source import open_source
from vit_jax.dedup.bands import find_pairs, make_index
from vit_jax.dedup.contact_sheet import choose_pairs, draw_sheet
from vit_jax.dedup.example_ids import ExampleId, ExampleIds, parse_dataset
from vit_jax.dedup.hashes import against_hashes, train_hashes, trim_borders
from vit_jax.dedup.ids_file import excluded_positions, format_ids, read_ids
from vit_jax.errors import InputError


def photo(height=140, width=180):
  from sklearn.datasets import load_sample_image

  return np.ascontiguousarray(load_sample_image('china.jpg')[100 : 100 + height, 200 : 200 + width])


def distance(changed, image):
  """The least distance of any hash of the one to any of the other."""
  a, b = train_hashes(changed), against_hashes(image)
  return int(np.bitwise_count(a[:, None] ^ b).min())


# Hashes.


def test_hash_is_image_hashs_and_does_not_change():
  """Another value here means that HASH_VERSION must change."""
  imagehash = pytest.importorskip('imagehash')
  from PIL import Image

  image = photo(128, 100)
  grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
  assert f'{train_hashes(image)[0]:016x}' == str(imagehash.phash(Image.fromarray(grey)))
  framed = np.pad(smooth_image(200, 150), ((9, 9), (20, 20), (0, 0)))
  assert [f'{h:016x}' for h in train_hashes(framed)] == ['918d4f3668f03fe0', '9b8bc921fe2601db']
  assert train_hashes(image).dtype == against_hashes(image).dtype == np.uint64
  assert against_hashes(image).shape == (20,) and against_hashes(framed).shape == (22,)


CHANGES = {
  'same': lambda x: x,
  'jpeg': lambda x: cv2.imdecode(cv2.imencode('.jpg', x, [1, 50])[1], 1),
  'smaller': lambda x: cv2.resize(x, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
  'larger': lambda x: cv2.resize(x, None, fx=2, fy=2),
  'other shape': lambda x: cv2.resize(x, (140, 180)),
  'cropped': lambda x: x[:-7, 9:],
  'cropped more': lambda x: x[14:, :-18],
  'mirrored': lambda x: x[:, ::-1],
  'mirrored, cropped': lambda x: x[4:-3, ::-1][:, 9:],
  'darker': lambda x: (x * 0.7).astype(np.uint8),
  'white frame': lambda x: np.pad(x, ((9, 9), (9, 9), (0, 0)), constant_values=255),
  'letterbox': lambda x: np.pad(x, ((40, 40), (0, 0), (0, 0))),
  'grey': lambda x: np.repeat(x.mean(axis=-1, keepdims=True), 3, axis=-1).astype(np.uint8),
}


@pytest.mark.parametrize('change', CHANGES.values(), ids=CHANGES)
def test_changed_images_are_near_and_others_far(change):
  pytest.importorskip('imagehash')
  changed = np.ascontiguousarray(change(photo()))
  assert distance(changed, photo()) <= 8
  assert distance(changed, smooth_image(140, 180)) > 12


@pytest.mark.parametrize('shape', [(1, 1), (1, 50), (50, 1), (8, 8), (700, 3)])
def test_any_shape_has_hashes(shape):
  pytest.importorskip('imagehash')
  for value in (0, 255):
    image = np.full((*shape, 3), value, np.uint8)
    assert train_hashes(image).shape == (1,) and against_hashes(image).shape == (20,)


def test_trim_borders():
  grey = cv2.cvtColor(photo(), cv2.COLOR_RGB2GRAY)
  np.testing.assert_array_equal(trim_borders(grey), grey)
  framed = np.pad(grey, ((3, 5), (7, 0)), constant_values=255)
  np.testing.assert_array_equal(trim_borders(framed), grey)
  noise = np.random.default_rng(0).integers(0, 8, framed.shape, np.uint8)
  assert trim_borders(framed - noise * (framed > 250)).shape == grey.shape
  wide = np.pad(grey, ((80, 80), (0, 0)))  # more frame than image: left as it is
  np.testing.assert_array_equal(trim_borders(wide), wide)
  flat = np.full((20, 30), 7, np.uint8)
  np.testing.assert_array_equal(trim_borders(flat), flat)


# Pairs.


def flip_bits(hashes, rng, most):
  counts = rng.integers(0, most + 1, len(hashes))
  flips = [sum(1 << int(bit) for bit in rng.choice(64, n, replace=False)) for n in counts]
  return hashes ^ np.array(flips, np.uint64)


@pytest.mark.parametrize('threshold', [0, 1, 2, 3, 5, 8, 13, 16])
def test_pairs_equal_those_of_comparing_all(threshold):
  rng = np.random.default_rng(threshold)
  few = rng.integers(0, 2**64, 100, np.uint64)
  many = flip_bits(np.concatenate([few] * 6), rng, 20)
  pairs = find_pairs(make_index(few, np.arange(100), threshold), many, np.arange(600))
  distances = np.bitwise_count(many[:, None] ^ few)
  want = np.argwhere(distances <= threshold)
  np.testing.assert_array_equal(pairs[:, :2], want)
  np.testing.assert_array_equal(pairs[:, 2], distances[tuple(want.T)])
  assert len(want) >= 600 * (threshold + 1) / 21 * 0.7


def test_pair_of_several_hashes_counts_once_at_its_least_distance():
  index = make_index(np.array([0b111, 0b1, 2**63], np.uint64), np.array([5, 5, 6]), 4)
  pairs = find_pairs(index, np.array([0b11, 0, 2**63 + 7], np.uint64), np.array([9, 9, 2]))
  assert pairs.tolist() == [[2, 5, 1], [2, 6, 3], [9, 5, 1], [9, 6, 1]]


def test_many_alike_leave_only_the_closest():
  same = np.zeros(5000, np.uint64)
  pairs = find_pairs(make_index(same, np.arange(5000), 8), same[:1500], np.arange(1500))
  want = np.stack([np.repeat(np.arange(1500), 8), np.tile(np.arange(8), 1500), np.zeros(12000)], 1)
  np.testing.assert_array_equal(pairs, want)


@pytest.mark.parametrize('threshold', [-1, 17])
def test_bad_threshold(threshold):
  with pytest.raises(InputError, match=f'from 0 to 16 bits, got {threshold}'):
    make_index(np.zeros(1, np.uint64), np.zeros(1), threshold)


def test_nothing_to_find():
  none = np.empty(0, np.uint64)
  some = np.arange(3, dtype=np.uint64)
  assert find_pairs(make_index(none, none, 8), some, some).shape == (0, 3)
  assert find_pairs(make_index(some, some, 8), none, none).shape == (0, 3)


# ExampleIds and ids.


@pytest.mark.parametrize(
  'text, want',
  [
    ('cifar10', ('cifar10', 'DEFAULT')),
    ('cifar10:test', ('cifar10', 'test')),
    ('imagenet2012:5.1.0', ('imagenet2012:5.1.0', 'DEFAULT')),
    ('eurosat/rgb:2.*.*:train[80%:]', ('eurosat/rgb:2.*.*', 'train[80%:]')),
    ('cifar10:test+train[:9]', ('cifar10', 'test+train[:9]')),
    ('./a folder:val', ('./a folder', 'val')),
  ],
)
def test_data_set_and_split(text, want):
  assert parse_dataset(text, 'DEFAULT') == want


@pytest.mark.parametrize('which', [0, 1], ids=['array_record', 'tfrecord'])
@pytest.mark.parametrize('split', ['train', 'train[7:30]', 'test[3:]+train[:-5]', 'all'])
def test_an_id_is_the_same_record_whatever_the_slice(shapes, split, which):
  records = ExampleIds('shapes', split, shapes[which])
  whole = {name: open_source('shapes', name, shapes[0]) for name in ('train', 'test')}
  assert len(records) == len(records.source) == sum(b - a for _, a, b in records.ranges)
  for i in range(len(records)):
    name, index = records.id(i)
    assert records.source[i]['image'] == whole[name][index]['image']


def write(path, records, ids, **changes):
  text = format_ids(
    records,
    threshold='8',
    against='b:test',
    reasons={ExampleId(*i): 'distance 3 to b:test 4' for i in ids},
  )
  for old, new in changes.items():
    assert old in text
    text = text.replace(old, new)
  path.write_text(text)
  return str(path)


def test_file_of_ids(shapes, tmp_path):
  records = ExampleIds('shapes', 'train+test', shapes[0])
  path = write(tmp_path / 'ids.txt', records, [('train', 12), ('test', 3), ('train', 5)])
  assert (
    pathlib.Path(path).read_text()
    == f"""\
# vit_jax ids 1
# dataset: shapes/1.2.0
# records: train={NUM_TRAIN} test={NUM_TEST}
# hash: phash64-1
# threshold: 8
# against: b:test
test 3    # distance 3 to b:test 4
train 5   # distance 3 to b:test 4
train 12  # distance 3 to b:test 4
"""
  )
  ids = read_ids(path)
  assert (ids.dataset, ids.threshold, ids.against) == ('shapes/1.2.0', '8', 'b:test')
  assert {k: v.tolist() for k, v in ids.indices.items()} == {'train': [5, 12], 'test': [3]}


@pytest.mark.parametrize(
  'split, want',
  [
    ('train', [5, 12]),
    ('train[6:]', [6]),
    ('train[:3]', []),
    ('test', [3]),
    ('test[2:]+train[10:20]', [1, NUM_TEST - 2 + 2]),
    ('all', [5, 12, NUM_TRAIN + 3]),
  ],
)
def test_positions_to_leave_out(shapes, tmp_path, split, want):
  records = ExampleIds('shapes', 'all', shapes[0])
  ids = read_ids(write(tmp_path / 'ids', records, [('train', 12), ('test', 3), ('train', 5)]))
  for data_dir in shapes:  # either file format
    assert sorted(excluded_positions(ids, 'shapes', split, data_dir).tolist()) == sorted(want)
    got = ExampleIds('shapes', split, data_dir)
    assert {str(got.id(i)) for i in want} <= {'train 5', 'train 12', 'test 3'}


BAD_FILES = {
  'no ids': ({'# vit_jax ids 1': 'train 1'}, 'does not begin as a file of ids does'),
  'a key lacks': ({'# threshold: 8\n': ''}, 'does not begin as a file of ids does'),
  'other hashes': (
    {'phash64-1': 'phash64-0'},
    'was made by hashes of version phash64-0, this is phash64-1: make it again',
  ),
  'a bad line': ({'train 5': 'train five'}, 'line 8: .* is no id such as "train 1234"'),
  'beyond the end': (
    {'train 5 ': 'train 500', 'train 12': 'train 41'},
    "has 2 ids that do not exist in the data set, the first is 'train 500': it "
    'has train with 41 records, test with 11 records',
  ),
  'another split': ({'train 5': 'valid 5'}, "1 ids that do not exist .* 'valid 5'"),
  'twice': ({'train 5': 'train 12'}, 'names 1 records of train twice'),
}


@pytest.mark.parametrize('changes, message', BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file_of_ids(shapes, tmp_path, changes, message):
  records = ExampleIds('shapes', 'train+test', shapes[0])
  path = write(tmp_path / 'i', records, [('train', 12), ('test', 3), ('train', 5)], **changes)
  with pytest.raises(InputError, match=f'^{path}.*{message}'):
    read_ids(path)


def test_missing_file_of_ids(tmp_path):
  with pytest.raises(InputError, match='none.txt cannot be read: No such file'):
    read_ids(tmp_path / 'none.txt')


def test_ids_of_another_data_set(shapes, digits_dir, tmp_path):
  records = ExampleIds('shapes', 'train', shapes[0])
  ids = [('train', 39), ('train', 40)]
  plain = read_ids(write(tmp_path / 'i', records, ids))
  with pytest.raises(InputError, match=r'are of shapes/1.2.0, not of digits/\d.\d.\d: make them'):
    excluded_positions(plain, 'digits', 'train', digits_dir)
  with pytest.raises(
    InputError, match="says nothing about the split 'test' of shapes: it was made for train"
  ):
    excluded_positions(plain, 'shapes', 'train+test', shapes[0])
  more = read_ids(
    write(tmp_path / 'i', records, [*ids, ('train', 41), ('train', 60)], **{'train=41': 'train=70'})
  )
  with pytest.raises(
    InputError,
    match=r'of 70 records of shapes, train, which has 41, so 2 ids do '
    "not exist, the first is 'train 41': make them again",
  ):
    excluded_positions(more, 'shapes', 'train', shapes[0])


def folder(root):
  for name in ('train/cat/a', 'train/cat/b', 'train/dog/c', 'val/dog/d'):
    path = root / f'{name}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), smooth_image(20, 20, seed=len(name) + ord(name[-1])))
  return str(root)


def test_ids_of_a_folder_hold_while_its_files_have_the_same_names(tmp_path):
  one = folder(tmp_path / 'one')
  ids = read_ids(write(tmp_path / 'i', ExampleIds(one, 'train'), [('train', 1)]))
  two = shutil.copytree(one, tmp_path / 'moved')
  names = lambda split: (lambda part: [part.record_name(i) for i in range(len(part))])(
    open_source(str(two), split)
  )
  for split in ('train', 'train[1:]', 'train[:1]+train[1:]'):  # slices are samples
    left_out = [names(split)[i] for i in excluded_positions(ids, str(two), split)]
    assert left_out == [name for name in names(split) if name.endswith('/b.png')]
    records = ExampleIds(str(two), split)
    assert [names('train')[records.id(i).index] for i in range(len(records))] == names(split)
  os.rename(two / 'train/cat/a.png', two / 'train/cat/z.png')
  with pytest.raises(InputError, match='have other names than when the ids in .* were made: make'):
    excluded_positions(ids, str(two), 'train')
  os.remove(two / 'train/cat/z.png')
  with pytest.raises(InputError, match='of 3 records of .*, train, which has 2: make them again'):
    excluded_positions(ids, str(two), 'train')


def test_ids_of_a_task_are_those_of_its_data_set(vtab_dir, tmp_path):
  data_dir = str(vtab_dir)
  task = ExampleIds('vtab/dtd', 'train800val200', data_dir)
  assert str(task.id(0)) == 'train 0' and str(task.id(799)) == 'train 799'
  assert str(task.id(800)) == 'validation 0' and len(task) == 1000
  whole = open_source('dtd', 'validation[:200]', data_dir)
  assert task.source[803]['image'] == whole[3]['image']
  ids = read_ids(write(tmp_path / 'i', task, [('train', 5), ('validation', 7)]))
  assert excluded_positions(ids, 'vtab/dtd', 'val200', data_dir).tolist() == [7]
  assert excluded_positions(ids, 'dtd', 'train[:800]', data_dir).tolist() == [5]


# The contact sheet.


def test_choose_pairs_of_every_distance():
  distances = [4] * 50 + [0] * 2 + [8] * 100
  chosen = choose_pairs(distances, 20)
  assert chosen[:2] == [50, 51]
  assert [distances[i] for i in chosen] == [0] * 2 + [4] * 9 + [8] * 9
  assert chosen[2] == 0 and chosen[10] == 49 and chosen[-1] == 151 == len(distances) - 1
  assert choose_pairs([], 20) == []
  assert choose_pairs([3, 1], 20) == [1, 0]


def test_sheet_shows_each_pair():
  red, blue = (np.full((9, 30, 3), c, np.uint8) for c in ((255, 0, 0), (0, 0, 255)))
  sheet = draw_sheet([(red, blue, ['one', 'two'])] * 5, 'title')
  assert sheet.shape == (39 + 2 * (128 + 30 + 12), 12 + 4 * 270, 3)
  for y in (39 + 64, 39 + 170 + 64):  # the middles of both rows
    assert sheet[y, 12 + 64].tolist() == [255, 0, 0]
    assert sheet[y, 12 + 130 + 64].tolist() == [0, 0, 255]
  assert sheet[39 + 64, 12 + 3 * 270 + 64].tolist() == [255, 0, 0]
  assert sheet[39 + 170 + 64, 12 + 270 + 64].tolist() == [255, 255, 255]  # the fifth is the last
