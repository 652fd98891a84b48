"""All readers behave alike: order, labels, pickling, threads, splits, bad records, odd names."""

import concurrent.futures
import itertools
import os
import pickle

import numpy as np
import pytest

from tests.helpers.readers import NO_IMAGE, SEVERAL, SHUFFLES, WRITERS, Row
from tests.helpers.shapes import png, read_all
from vit_jax.data.batch import ReadOptions
from vit_jax.data.open_source import describe_dataset, open_source, split_names
from vit_jax.data.pipeline import eval_batches, train_batches
from vit_jax.data.preprocess import make_eval_preprocess, make_train_preprocess
from vit_jax.dedup.example_ids import ExampleIds, parse_dataset
from vit_jax.errors import InputError

NAMES = ['b, c', 'äpfel & birnen', '日本 7']  # sorted, as the classes of a folder are
TRAIN = [Row(f'bild ü {i:02}', png(i), i % 3) for i in range(30)]
TEST = [Row(f'日{i}', png(i), i % 2) for i in range(100, 107)]
EVAL = make_eval_preprocess('bit', 4)

readers = pytest.mark.parametrize('reader', sorted(WRITERS))


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """Return written(reader) -> (dataset, data_dir) of TRAIN and TEST. Tests must not change it."""
  done = {}

  def write(reader):
    if reader not in done:
      root = tmp_path_factory.mktemp('data') / f'{reader} ü'
      done[reader] = WRITERS[reader](root, {'train': TRAIN, 'test': TEST}, NAMES)
    return done[reader]

  return write


def open_split(dataset, split):
  name, data_dir = dataset
  return open_source(name, split, data_dir)


def examples(rows):
  return [{'image': row.image, 'label': row.label} for row in rows]


def places(source):
  return [source.location(i) for i in range(len(source))]


def by_image(found):
  return sorted(found, key=lambda example: example['image'])


@readers
def test_order_labels_and_names(reader, written):
  dataset = written(reader)
  opened = open_split(dataset, 'train')
  found = read_all(opened)
  assert len(opened) == len(TRAIN) and by_image(found) == by_image(examples(TRAIN))
  if reader not in SHUFFLES:
    assert found == examples(TRAIN)
  assert read_all(open_split(dataset, 'train')) == found  # the same order every time
  assert [opened.label(i) for i in range(len(TRAIN))] == [x['label'] for x in found]
  assert all(type(x['label']) is int and type(x['image']) is bytes for x in found)
  assert opened.class_names == NAMES and opened.num_classes == 3 and not opened.multi_label
  assert len(set(places(opened))) == len(TRAIN)
  assert all(place.isprintable() for place in places(opened))
  assert sorted(split_names(*dataset)) == ['test', 'train']
  info = describe_dataset(*dataset)
  assert (info.train_split, info.eval_split) == ('train', 'test')
  assert open_split(dataset, 'test').class_names == NAMES


@readers
def test_pickling_threads_and_indices(reader, written):
  opened = open_split(written(reader), 'train')
  expected = read_all(opened)
  copy = pickle.loads(pickle.dumps(opened))
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert list(pool.map(copy.__getitem__, list(range(len(TRAIN))) * 5)) == expected * 5
  assert places(copy) == places(opened)
  pending = [copy.start(i) for i in range(len(TRAIN))]
  assert [wait() for wait in pending] == expected
  for index in (len(TRAIN), -1):
    for read in (opened.__getitem__, opened.label, opened.location):
      with pytest.raises(IndexError):
        read(index)


@readers
def test_splits_and_slices(reader, written):
  dataset = written(reader)
  train, test = (open_split(dataset, split) for split in ('train', 'test'))
  for cuts in ([0, 10, 30], [0, 1, 15, 29, 30]):
    parts = [open_split(dataset, f'train[{a}:{b}]') for a, b in itertools.pairwise(cuts)]
    assert [len(part) for part in parts] == [b - a for a, b in itertools.pairwise(cuts)]
    assert sorted(sum(map(places, parts), [])) == sorted(places(train))
  assert len(open_split(dataset, 'train[90%:]')) == 3
  both = open_split(dataset, 'test+train')
  assert places(both) == places(test) + places(train)
  assert read_all(both) == read_all(test) + read_all(train)
  part = open_split(dataset, 'train[10:20]+test[-2:]')
  known = dict(zip(places(both), read_all(both)))
  assert read_all(part) == [known[place] for place in places(part)] and len(part) == 12
  assert len(open_split(dataset, 'all')) == 37
  with pytest.raises(
    InputError, match=r"^Unknown split 'val'\. Available: (test, train|train, test)"
  ):
    open_split(dataset, 'val')
  with pytest.raises(InputError, match="^The split 'train.:0.' holds no examples. Choose another"):
    open_split(dataset, 'train[:0]')
  with pytest.raises(InputError, match='^Cannot read the split '):
    open_split(dataset, 'train[:99]')


@readers
def test_a_run_goes_on_with_the_batch_at_which_it_stopped(reader, written):
  source = open_split(written(reader), 'train')
  preprocess = make_train_preprocess('inception', 4)

  def batches(start, count, **options):
    options = ReadOptions(8, num_threads=3, **options)
    with train_batches(source, preprocess, options, seed=3, start_step=start) as found:
      return [{k: v.tolist() for k, v in batch.items()} for batch in itertools.islice(found, count)]

  whole = batches(0, 7)
  assert batches(4, 3) == whole[4:]
  shares = [batches(0, 7, process_index=i, process_count=2) for i in range(2)]
  assert [{k: a[k] + b[k] for k in a} for a, b in zip(*shares)] == whole


@readers
def test_ids_for_leaving_images_out(reader, written):
  """The ids of duplicates name the same images whatever the slice, and notice other images."""
  name, data_dir = written(reader)
  found = ExampleIds(name, 'train[5:20]+test', data_dir)
  whole = {split: open_split((name, data_dir), split) for split in ('train', 'test')}
  for i in range(len(found)):
    split, index = found.id(i)
    assert found.source[i] == whole[split][index]
  assert len(found) == 22 and set(found.splits) == {'train', 'test'}
  assert parse_dataset(f'{name}:train[:9]', 'test') == (name, 'train[:9]')
  assert parse_dataset(name, 'test') == (name, 'test')


@readers
def test_every_image_is_evaluated_once(reader, written):
  source = open_split(written(reader), 'test')
  with eval_batches(source, EVAL, ReadOptions(4)) as batches:
    found = [
      (int(example), int(label))
      for batch in batches
      for example, label, mask in zip(batch['example'], batch['label'], batch['mask'])
      if mask
    ]
  assert found == [(i, source.label(i)) for i in range(len(TEST))]


@readers
def test_bad_records_are_named_and_counted(reader, tmp_path):
  rows = [Row(f'{i}', png(i), i % 3) for i in range(9)]
  rows[2] = rows[2]._replace(image=b'not an image')
  rows[5] = rows[5]._replace(image=png(5)[:40])
  if reader in NO_IMAGE:
    rows[7] = rows[7]._replace(image=None)
  bad = len(rows) - sum(row.image == png(i) for i, row in enumerate(rows))
  dataset = WRITERS[reader](tmp_path / 'data', {'train': rows, 'test': rows[:1]}, NAMES)
  source = open_split(dataset, 'train')
  with eval_batches(source, EVAL, ReadOptions(4, max_bad_records=bad)) as batches:
    masks = np.concatenate([batch['mask'] for batch in batches])
  places_of_bad = {source.location(i) for i in np.flatnonzero(~masks[: len(rows)])}
  assert batches.bad_records == places_of_bad and len(places_of_bad) == bad
  good = [source[i] for i in np.flatnonzero(masks)]
  expected = [row for i, row in enumerate(rows) if row.image == png(i)]
  assert by_image(good) == by_image(examples(expected))
  with (
    pytest.raises(InputError) as e,
    eval_batches(source, EVAL, ReadOptions(4, max_bad_records=bad - 1)) as batches,
  ):
    list(batches)
  assert any(f'Record {place} is damaged' in str(e.value) for place in places_of_bad)


@pytest.mark.parametrize('reader', sorted(NO_IMAGE))
def test_a_label_without_an_image(reader, tmp_path):
  rows = [Row('a', png(0), 1), Row('b', None, 2), Row('c', png(2), 0)]
  dataset = WRITERS[reader](tmp_path / 'data', {'train': rows, 'test': rows[:1]}, NAMES)
  source = open_split(dataset, 'train')
  assert [source.label(i) for i in range(3)] == [1, 2, 0]
  assert source[0] == {'image': png(0), 'label': 1}
  with pytest.raises(ValueError, match='(no image|No such file)') as e:
    source[1]
  assert not isinstance(e.value, InputError)


@pytest.mark.parametrize('reader', sorted(SEVERAL))
def test_several_labels_per_image(reader, tmp_path):
  labels = [[0], [2, 0], [], [1]]
  rows = [Row(f'{i}', png(i), several) for i, several in enumerate(labels)]
  dataset = WRITERS[reader](tmp_path / 'data', {'train': rows, 'test': rows[:2]}, NAMES)
  source = open_split(dataset, 'train')
  assert source.multi_label and source.class_names == NAMES
  found = {x['image']: x['label'] for x in read_all(source)}
  for row in rows:
    np.testing.assert_array_equal(np.flatnonzero(found[row.image]), sorted(row.label))
  for i in range(len(source)):
    np.testing.assert_array_equal(source.label(i), source[i]['label'])
    assert source.label(i).shape == (3,) and source.label(i).dtype == np.uint8
  assert open_split(dataset, 'test').multi_label
  with eval_batches(source, EVAL, ReadOptions(4)) as batches:
    (batch,) = batches
  assert batch['label'].sum() == 4 and batch['label'].shape == (4, 3)


@pytest.mark.parametrize('reader', ['csv', 'folder', 'webdataset'])
def test_an_empty_split(reader, tmp_path):  # TFDS and Hugging Face's package refuse it themselves
  dataset = WRITERS[reader](tmp_path / 'data', {'train': [], 'test': TEST}, NAMES)
  with pytest.raises(InputError) as e:
    open_split(dataset, 'train')
  assert str(e.value)[-1] == '.' and '\n' not in str(e.value)
  assert by_image(read_all(open_split(dataset, 'test'))) == by_image(examples(TEST))


@readers
def test_names_that_are_no_characters(reader, tmp_path):
  """Files of folders and tars may have any bytes as names."""
  if reader not in ('folder', 'webdataset'):
    pytest.skip('this format only holds characters')
  rows = [Row(os.fsdecode(b'\xff\xfe'), png(0), 0), Row('a\nb', png(1), 1)]
  dataset = WRITERS[reader](tmp_path / 'data', {'train': rows, 'test': rows}, NAMES)
  source = open_split(dataset, 'train')
  assert by_image(read_all(source)) == by_image(examples(rows))
  assert read_all(pickle.loads(pickle.dumps(source))) == read_all(source)
