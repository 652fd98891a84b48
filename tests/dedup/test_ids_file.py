import os
import pathlib
import shutil

import cv2
import pytest

from tests.helpers.images import smooth_image
from tests.helpers.shapes import NUM_TEST, NUM_TRAIN
from vit_jax.data.open_source import open_source
from vit_jax.dedup.example_ids import ExampleId, ExampleIds
from vit_jax.dedup.ids_file import excluded_positions, format_ids, read_ids
from vit_jax.errors import InputError


def write(path, examples, ids, **changes):
  text = format_ids(
    examples,
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
  examples = ExampleIds('shapes', 'train+test', shapes[0])
  path = write(tmp_path / 'ids.txt', examples, [('train', 12), ('test', 3), ('train', 5)])
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
  examples = ExampleIds('shapes', 'all', shapes[0])
  ids = read_ids(write(tmp_path / 'ids', examples, [('train', 12), ('test', 3), ('train', 5)]))
  for data_dir in shapes:  # either file format
    assert sorted(excluded_positions(ids, 'shapes', split, data_dir).tolist()) == sorted(want)
    got = ExampleIds('shapes', split, data_dir)
    assert {str(got.id(i)) for i in want} <= {'train 5', 'train 12', 'test 3'}


BAD_FILES = {
  'no ids': (
    {'# vit_jax ids 1': 'train 1'},
    "is not a file of ids. Its first line must be '# vit_jax ids 1', followed by dataset, "
    'records, hash, threshold, against. Make the file again with python -m vit_jax.tools.dedup.',
  ),
  'a key lacks': (
    {'# threshold: 8\n': ''},
    "is not a file of ids. Its first line must be '# vit_jax ids 1', followed by dataset, "
    'records, hash, threshold, against. Make the file again with python -m vit_jax.tools.dedup.',
  ),
  'other hashes': (
    {'phash64-1': 'phash64-0'},
    'was made with hashes of version phash64-0, but this version of vit_jax computes phash64-1. '
    'Make the file again with python -m vit_jax.tools.dedup.',
  ),
  'a bad line': ({'train 5': 'train five'}, ', line 8: .* is not an id such as "train 1234".'),
  'beyond the end': (
    {'train 5 ': 'train 500', 'train 12': 'train 41'},
    "lists ids that do not exist in the dataset: 2. The first is 'train 500'. The dataset has "
    'train with 41 examples, test with 11 examples.',
  ),
  'another split': (
    {'train 5': 'valid 5'},
    "lists ids that do not exist in the dataset: 1. The first is 'valid 5'. ",
  ),
  'twice': ({'train 5': 'train 12'}, 'lists 1 examples of train more than once.'),
}


@pytest.mark.parametrize('changes, message', BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file_of_ids(shapes, tmp_path, changes, message):
  examples = ExampleIds('shapes', 'train+test', shapes[0])
  path = write(tmp_path / 'i', examples, [('train', 12), ('test', 3), ('train', 5)], **changes)
  with pytest.raises(InputError, match=f'^{path}.*{message}'):
    read_ids(path)


def test_missing_file_of_ids(tmp_path):
  with pytest.raises(InputError, match='^Cannot read .*none.txt: No such file or directory.$'):
    read_ids(tmp_path / 'none.txt')


def test_ids_of_another_dataset(shapes, digits_dir, tmp_path):
  examples = ExampleIds('shapes', 'train', shapes[0])
  ids = [('train', 39), ('train', 40)]
  plain = read_ids(write(tmp_path / 'i', examples, ids))
  with pytest.raises(
    InputError, match=r'belong to shapes/1.2.0, not to digits/\d.\d.\d. Make ids for digits with'
  ):
    excluded_positions(plain, 'digits', 'train', digits_dir)
  with pytest.raises(
    InputError, match="does not cover the split 'test' of shapes. It was made for train.$"
  ):
    excluded_positions(plain, 'shapes', 'train+test', shapes[0])
  more = read_ids(
    write(
      tmp_path / 'i', examples, [*ids, ('train', 41), ('train', 60)], **{'train=41': 'train=70'}
    )
  )
  with pytest.raises(
    InputError,
    match='were made for 70 examples of shapes, train, but it has 41 now. Ids that no longer '
    "exist: 2. The first is 'train 41'. Make the file again",
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
  names = lambda split: (lambda part: [part.location(i) for i in range(len(part))])(
    open_source(str(two), split)
  )
  for split in ('train', 'train[1:]', 'train[:1]+train[1:]'):  # slices are samples
    left_out = [names(split)[i] for i in excluded_positions(ids, str(two), split)]
    assert left_out == [name for name in names(split) if name.endswith('/b.png')]
    examples = ExampleIds(str(two), split)
    assert [names('train')[examples.id(i).index] for i in range(len(examples))] == names(split)
  os.rename(two / 'train/cat/a.png', two / 'train/cat/z.png')
  with pytest.raises(InputError, match='have other names than when the ids in .* were made. Make'):
    excluded_positions(ids, str(two), 'train')
  os.remove(two / 'train/cat/z.png')
  with pytest.raises(
    InputError, match='for 3 examples of .*, train, but it has 2 now. Make the file again'
  ):
    excluded_positions(ids, str(two), 'train')


def test_ids_of_a_task_are_those_of_its_dataset(vtab_dir, tmp_path):
  data_dir = str(vtab_dir)
  task = ExampleIds('vtab/dtd', 'train800val200', data_dir)
  assert str(task.id(0)) == 'train 0' and str(task.id(799)) == 'train 799'
  assert str(task.id(800)) == 'validation 0' and len(task) == 1000
  whole = open_source('dtd', 'validation[:200]', data_dir)
  assert task.source[803]['image'] == whole[3]['image']
  ids = read_ids(write(tmp_path / 'i', task, [('train', 5), ('validation', 7)]))
  assert excluded_positions(ids, 'vtab/dtd', 'val200', data_dir).tolist() == [7]
  assert excluded_positions(ids, 'dtd', 'train[:800]', data_dir).tolist() == [5]
