"""Read WebDataset shards: splits, labels, names of classes, and shards that change."""

import concurrent.futures
import pickle

import numpy as np
import pytest

from tests.helpers.shapes import png, read_all
from tests.helpers.storage import put
from tests.helpers.tars import json_sample, write_shards, write_tar
from vit_jax.data import remote
from vit_jax.data.open_source import describe_dataset, open_source, split_names
from vit_jax.errors import InputError

NUM_TRAIN, NUM_VALIDATION = 40, 10

HAS_CHANGED = (
  'has changed since it was indexed. Delete the index (vit_jax_index.npz beside it, or in records/ '
  'in the cache of vit_jax), which is then made again.'
)


@pytest.fixture
def shards(tmp_path):
  """Return a dataset of four shards to train on and two to validate on."""
  write_shards(tmp_path, 'in-train', 4, 10)
  write_shards(tmp_path, 'in-validation', 2, 5, first=1000)
  return f'wds:{tmp_path}/in-{{train,validation}}-*.tar'


def examples(numbers, label=lambda i: i % 3):
  return [{'image': png(i), 'label': label(i)} for i in numbers]


def test_splits(shards, tmp_path):
  opened = open_source(shards, 'train')
  assert read_all(opened) == examples(range(NUM_TRAIN))
  assert opened.num_classes == 3 and opened.class_names is None and opened.apply_exif
  assert opened.location(12) == f'{tmp_path}/in-train-001.tar/000012'
  assert [opened.label(i) for i in range(4)] == [0, 1, 2, 0]
  validation = open_source(shards, 'validation')
  assert read_all(validation) == examples(range(1000, 1000 + NUM_VALIDATION))
  assert split_names(shards) == ['train', 'validation']
  assert describe_dataset(shards).eval_split == 'validation'
  both = read_all(open_source(shards, 'validation+train'))
  assert both == read_all(validation) + read_all(opened)
  assert len(open_source(shards, 'all')) == NUM_TRAIN + NUM_VALIDATION


def test_slices_are_disjoint_samples(shards):
  parts = [open_source(shards, f'train[{part}]') for part in (':10', '10:30', '30:')]
  places = [[part.location(i) for i in range(len(part))] for part in parts]
  assert [len(part) for part in places] == [10, 20, 10]
  opened = open_source(shards, 'train')
  assert sorted(sum(places, [])) == [opened.location(i) for i in range(NUM_TRAIN)]
  assert len({place.split('/')[-2] for place in places[0]}) > 2  # from several shards


def test_threads_and_pickling(shards):
  opened = open_source(shards, 'train')
  expected = read_all(opened)
  opened = pickle.loads(pickle.dumps(opened))
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert list(pool.map(opened.__getitem__, list(range(NUM_TRAIN)) * 5)) == expected * 5
  for index in (NUM_TRAIN, -1):
    for read in (opened.__getitem__, opened.label, opened.location):
      with pytest.raises(IndexError):
        read(index)


@pytest.mark.parametrize('file', ['class_names.txt', 'classnames.txt', '../classnames.txt'])
def test_names_of_the_classes(tmp_path, file):
  folder = tmp_path / 'shards'
  write_shards(folder, 'a', 1, 6)
  (folder / file).write_text('Zebra\nÄpfel, rot\nx\nnever used\n', 'utf-8')
  opened = open_source(f'wds:{folder}', 'train')
  assert opened.class_names == ['Zebra', 'Äpfel, rot', 'x', 'never used']
  assert opened.num_classes == 4 and opened.label(1) == 1
  (folder / file).write_text('a\nb\n')
  with pytest.raises(InputError) as e:
    open_source(f'wds:{folder}', 'train')
  path = folder.parent / 'classnames.txt' if '..' in file else folder / file
  assert str(e.value) == (
    f'{folder}/a-000.tar holds the label 2, which is not among the 2 classes in {path}. Correct '
    'that file, or remove it.'
  )


def test_names_as_labels(tmp_path):
  names = ['zoo', 'ant', 'bee']
  write_shards(tmp_path, 'a-train', 2, 3, sample=json_sample, label=lambda i: names[i % 3])
  write_shards(tmp_path, 'a-val', 1, 3, sample=json_sample, label=lambda i: names[i % 2])
  opened = open_source(f'wds:{tmp_path}', 'train')
  assert opened.class_names == ['ant', 'bee', 'zoo']
  assert [opened.label(i) for i in range(6)] == [2, 0, 1] * 2
  val = open_source(f'wds:{tmp_path}', 'val')
  assert val.class_names == opened.class_names and [val.label(i) for i in range(3)] == [2, 0, 2]
  (tmp_path / 'classnames.txt').write_text('bee\nant\nzoo\n')
  assert open_source(f'wds:{tmp_path}', 'train').label(0) == 2
  assert open_source(f'wds:{tmp_path}', 'train').label(1) == 1
  (tmp_path / 'classnames.txt').write_text('bee\nant\n')
  with pytest.raises(InputError, match='a-train-000.tar holds the label zoo, which is not among'):
    open_source(f'wds:{tmp_path}', 'train')


def test_several_labels_per_image(tmp_path):
  labels = [[0, 2], [1], [], [3, 0]]
  write_shards(tmp_path, 'a-train', 2, 2, sample=json_sample, label=lambda i: labels[i])
  opened = open_source(f'wds:{tmp_path}', 'train')
  assert opened.multi_label and opened.num_classes == 4
  expected = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]], np.uint8)
  np.testing.assert_array_equal([opened[i]['label'] for i in range(4)], expected)
  np.testing.assert_array_equal([opened.label(i) for i in range(4)], expected)
  assert opened[0]['label'].dtype == np.uint8


def test_samples_without_an_image_or_a_label(tmp_path):
  write_tar(
    tmp_path / 'a.tar', [('1.cls', b'1'), ('2.png', png(2)), ('3.png', b''), ('3.cls', b'0')]
  )
  opened = open_source(f'wds:{tmp_path}', 'train')
  for index, message in [
    (0, 'the sample has a label, but no image'),
    (1, 'the sample has no label'),
  ]:
    with pytest.raises(ValueError) as e:
      opened[index]
    assert str(e.value) == message and not isinstance(e.value, InputError)
  assert opened.label(0) == 1 and opened[2] == {'image': b'', 'label': 0}
  with pytest.raises(ValueError, match='^the sample has no label$'):
    opened.label(1)


def test_a_split_without_labels(tmp_path):
  write_shards(tmp_path, 'a-train', 1, 3)
  write_tar(tmp_path / 'a-test.tar', [('1.png', png(1)), ('2.png', png(2))])
  assert len(open_source(f'wds:{tmp_path}', 'train')) == 3
  with pytest.raises(InputError) as e:
    open_source(f'wds:{tmp_path}', 'test')
  assert str(e.value) == (
    f'The split test of {tmp_path} has no labels. Every image needs a .cls or .json file with its '
    'label. Choose another split.'
  )


def test_a_pattern_whose_braces_the_shell_has_expanded(shards):
  """Without quotes, the shell makes two flags of the pattern, of which the last one counts."""
  with pytest.raises(InputError) as e:
    open_source(shards.replace('{train,validation}', 'validation'), 'train')
  assert str(e.value) == (
    "Unknown split 'train'. Available: validation. In a shell, put quotes around a pattern with "
    'braces.'
  )


@pytest.mark.parametrize('change', ['shorter', 'other members', 'removed'])
def test_a_shard_that_changes_during_a_run(shards, tmp_path, change):
  path = tmp_path / 'in-train-000.tar'
  opened = open_source(shards, 'train')
  if change == 'shorter':
    path.write_bytes(path.read_bytes()[:1000])
  elif change == 'other members':
    write_tar(path, [('x.bin', b'x' * 30_000)])
  else:
    path.unlink()
  with pytest.raises(InputError) as e:
    opened[1]
  assert str(e.value) == (
    f'Cannot read {path}: No such file or directory. Check its permissions and disk.'
    if change == 'removed'
    else f'{path} {HAS_CHANGED}'
  )


@pytest.fixture
def bucket(shards, tmp_path, request):
  """Return the same dataset as `shards` in remote storage."""
  address = f'memory://{request.node.name}'
  put(tmp_path, address)
  remote.write_file(f'{address}/class_names.txt', b'a\nb\nc\n')
  return f'wds:{address}/in-{{train,validation}}-*.tar'


def test_remote_shards_are_those_on_the_disk(shards, bucket, tmp_path):
  expected, opened = open_source(shards, 'train'), open_source(bucket, 'train')
  assert opened.is_remote and not expected.is_remote and opened.class_names == ['a', 'b', 'c']
  assert read_all(opened) == read_all(expected) == examples(range(NUM_TRAIN))
  address = bucket.removeprefix('wds:').split('/in-')[0]
  assert opened.location(12) == expected.location(12).replace(str(tmp_path), address)
  assert split_names(f'wds:{address}') == ['train', 'validation']
  numbers = open_source(f'wds:{address}/in-train-{{001..002}}.tar', 'train')
  assert read_all(numbers) == examples(range(10, 30))
  pending = [opened.start(i) for i in range(NUM_TRAIN)]
  assert [wait() for wait in pending] == read_all(expected)
  assert read_all(pickle.loads(pickle.dumps(opened))) == read_all(expected)


def test_remote_shards_that_change_or_are_missing(bucket):
  opened = open_source(bucket, 'train')
  address = opened.location(0).rpartition('/')[0]
  remote.write_file(address, b'short')
  with pytest.raises(InputError) as e:
    opened[1]
  assert str(e.value) == (f'{address} {HAS_CHANGED}')
  with pytest.raises(InputError, match='^Cannot read .*-7.tar: no such file. Check the address.$'):
    open_source(f'wds:{address.replace("000", "7")}', 'train')
  with pytest.raises(
    InputError, match='^In the remote pattern memory://a/./b-..tar, only the names'
  ):
    open_source('wds:memory://a/*/b-*.tar', 'train')
