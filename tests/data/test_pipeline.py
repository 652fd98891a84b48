"""A batch depends only on the seed and the step, not on how, where or when it is made."""

import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from vit_jax.data import pipeline
from vit_jax.data.batch import ReadOptions
from vit_jax.data.decode_warnings import warn
from vit_jax.data.order import TrainOrder
from vit_jax.data.source import Source
from vit_jax.errors import InputError, explain

SEED = 7


class Numbers(Source):
  """A source whose image i is the text of i, with label i % 10. Some records are damaged."""

  num_classes = 10

  def __init__(self, count, damaged=(), unreadable=()):
    self.count, self.damaged, self.unreadable = count, damaged, unreadable

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    if index in self.unreadable:
      raise ValueError('cannot be read')
    return {
      'image': b'damaged' if index in self.damaged else str(index).encode(),
      'label': index % 10,
    }

  def location(self, index):
    return f'numbers/{index}'


def preprocess(data, rng):
  """Return a (2, 2, 3) image with the image's number in row 0 and random draws in row 1."""
  if data == b'damaged':
    raise ValueError('image is truncated')
  number = int(data)
  image = np.empty((2, 2, 3), np.uint8)
  image[0, :, 0] = divmod(number, 256)
  image[0, :, 1:] = 1
  image[1] = rng.integers(0, 256, (2, 3))
  return image


def slow_preprocess(data, rng):
  time.sleep(0.002)
  return preprocess(data, rng)


def failing_preprocess(data, rng):
  if data == b'5':
    raise RuntimeError('a bug')
  return preprocess(data, rng)


def numbers(batch):
  """Return the image's number for each row."""
  return (batch['image'][:, 0, 0, 0].astype(int) * 256 + batch['image'][:, 0, 1, 0]).tolist()


def draws(batch):
  return [row[1].tobytes() for row in batch['image']]


def train(source, preprocess, *, seed=SEED, start_step=0, **options):
  return pipeline.train_batches(
    source, preprocess, ReadOptions(**options), seed=seed, start_step=start_step
  )


def evaluate(source, preprocess, **options):
  return pipeline.eval_batches(source, preprocess, ReadOptions(**options))


def take(count, source, **options):
  with train(source, preprocess, **{'batch_size': 8, **options}) as batches:
    return list(itertools.islice(batches, count))


def take_eval(source, **options):
  with evaluate(source, preprocess, **{'batch_size': 8, **options}) as batches:
    return list(batches)


def assert_equal(a, b):
  assert len(a) == len(b)
  for x, y in zip(a, b):
    assert x.keys() == y.keys()
    for key in x:
      np.testing.assert_array_equal(x[key], y[key])


def test_shapes_and_types():
  (batch,) = take(1, Numbers(100))
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
    'image': ((8, 2, 2, 3), np.uint8),
    'label': ((8,), np.int32),
    'mask': ((8,), bool),
    'example': ((8,), np.int32),
  }
  assert batch['mask'].all() and batch['example'].tolist() == list(range(8))
  assert batch['label'].tolist() == [n % 10 for n in numbers(batch)]


@pytest.mark.parametrize('batch_size', [8, 40])  # one piece, several pieces
@pytest.mark.parametrize('num_threads', [1, 8])
def test_threads_change_nothing(num_threads, batch_size):
  assert_equal(
    take(13, Numbers(37), batch_size=batch_size, num_threads=num_threads),
    take(13, Numbers(37), batch_size=batch_size),
  )


def test_workers_change_nothing():
  options = {'batch_size': 80, 'start_step': 3, 'process_index': 1, 'process_count': 2}
  assert_equal(
    take(13, Numbers(37), num_workers=2, num_threads=2, **options), take(13, Numbers(37), **options)
  )


@pytest.mark.parametrize('process_count', [2, 4])
@pytest.mark.parametrize('batch_size', [8, 80])
def test_processes_share_each_global_batch(process_count, batch_size):
  whole = take(7, Numbers(37), batch_size=batch_size)
  shares = [
    take(7, Numbers(37), batch_size=batch_size, process_index=i, process_count=process_count)
    for i in range(process_count)
  ]
  joined = [{k: np.concatenate([s[k] for s in step]) for k in step[0]} for step in zip(*shares)]
  assert_equal(joined, whole)


@pytest.mark.parametrize('start', [1, 5, 11])
def test_starting_at_a_step_equals_dropping_the_ones_before(start):
  assert_equal(take(4, Numbers(37), start_step=start), take(start + 4, Numbers(37))[start:])


def test_starting_late_takes_no_time():
  begin = time.monotonic()
  take(1, Numbers(60_000), start_step=10**9, batch_size=4096)
  assert time.monotonic() - begin < 5


def test_each_epoch_is_a_new_permutation_even_across_batches():
  n, epochs = 37, 6
  order = [x for b in take(-(-n * epochs // 8), Numbers(n)) for x in numbers(b)]
  by_epoch = [order[e * n : (e + 1) * n] for e in range(epochs)]
  assert all(sorted(epoch) == list(range(n)) for epoch in by_epoch)
  assert len({tuple(epoch) for epoch in by_epoch}) == epochs
  assert sorted(by_epoch[0]) != by_epoch[0]


@pytest.mark.parametrize('n', [1, 2, 3])
def test_tiny_datasets_and_batches_longer_than_an_epoch(n):
  order = [x for b in take(3, Numbers(n)) for x in numbers(b)]
  assert all(sorted(order[i : i + n]) == list(range(n)) for i in range(0, 24 - 24 % n, n))


def test_neighboring_seeds_have_nothing_in_common():
  # Epoch e of seed s must not be epoch e - 1 of seed s + 1, as with a plain seed + epoch.
  n = 40
  epochs = {}
  for seed in range(3):
    order = [x for b in take(20, Numbers(n), seed=seed) for x in numbers(b)]
    epochs.update({(seed, e): tuple(order[e * n : (e + 1) * n]) for e in range(4)})
  assert len(set(epochs.values())) == 12
  same_place = [np.mean(np.equal(a, b)) for a, b in itertools.combinations(epochs.values(), 2)]
  assert np.mean(same_place) < 3 / n


def test_augmentation_differs_between_epochs_examples_and_seeds():
  n = 16
  seen = [d for seed in (0, 1) for b in take(8, Numbers(n), seed=seed) for d in draws(b)]
  assert len(set(seen)) == len(seen)


def test_augmentation_draws_are_uniform():
  pixels = np.frombuffer(
    b''.join(d for b in take(20, Numbers(1000), batch_size=200) for d in draws(b)), np.uint8
  )
  counts = np.bincount(pixels, minlength=256)
  expected = len(pixels) / 256
  assert abs(np.sum((counts - expected) ** 2 / expected) - 255) < 5 * np.sqrt(2 * 255)


def test_order_and_draws_are_pinned():
  # Runs resume across versions of this package and of Grain only if these stay the same.
  (batch,) = take(1, Numbers(1000), start_step=300)
  assert numbers(batch) == [699, 343, 319, 287, 296, 165, 995, 240]
  assert batch['image'][0, 1].tolist() == [[197, 205, 114], [81, 123, 166]]


@pytest.mark.parametrize('n', [1, 7, 8, 9, 16, 100])
@pytest.mark.parametrize('process_count', [1, 2, 4])
def test_eval_counts_every_example_exactly_once(n, process_count):
  shares = [
    take_eval(Numbers(n), process_index=i, process_count=process_count)
    for i in range(process_count)
  ]
  assert {len(s) for s in shares} == {-(-n // 8)}
  seen = []
  for step in zip(*shares):
    for batch in step:
      assert batch['image'].shape == (8 // process_count, 2, 2, 3)
      seen += [x for x, valid in zip(numbers(batch), batch['mask']) if valid]
      assert batch['example'][batch['mask']].tolist() == seen[len(seen) - batch['mask'].sum() :]
      assert not batch['image'][~batch['mask']].any()
      assert not batch['label'][~batch['mask']].any()
  assert seen == list(range(n))


def test_eval_in_pieces():
  (batch,) = take_eval(Numbers(53), batch_size=60)
  assert batch['example'].tolist() == list(range(60))
  assert numbers(batch) == list(range(53)) + [0] * 7
  assert batch['mask'].tolist() == [True] * 53 + [False] * 7


def test_the_end_stays_the_end():
  with evaluate(Numbers(3), preprocess, batch_size=8) as batches:
    assert len(list(batches)) == 1
    assert not list(batches)


# Damaged records.


@pytest.mark.parametrize('make', [evaluate, train])
def test_a_damaged_record_stops_the_run(make):
  batches = make(Numbers(20, damaged={13}), preprocess, batch_size=4)
  with pytest.raises(InputError) as e:
    for _ in batches:
      pass
  assert str(e.value) == (
    'Record numbers/13 is damaged: image is truncated. Repair or remove it, or set '
    'max_bad_records=1 (or more) to skip damaged records.'
  )
  assert batches.bad_records == {'numbers/13'}


def test_the_first_record_damaged():
  with pytest.raises(InputError, match=r'^Record numbers/0 is damaged: image is truncated\. .*=1 '):
    evaluate(Numbers(5, damaged={0}), preprocess, batch_size=4)
  with pytest.raises(
    InputError, match=r'^Record numbers/2 is damaged, after 2 other.* max_bad_records=3 '
  ):
    evaluate(Numbers(5, damaged=range(4)), preprocess, batch_size=4, max_bad_records=2)


@pytest.mark.parametrize('workers', [0, 1])
def test_tolerated_records_leave_masked_rows_and_are_counted_once(workers):
  bad = {0, 3, 17}
  options = {'max_bad_records': 3, 'batch_size': 8, 'seed': SEED}
  with train(
    Numbers(20, damaged={0, 3}, unreadable={17}), preprocess, num_workers=workers, **options
  ) as batches:
    made = list(itertools.islice(batches, 10))  # 4 epochs
    assert batches.bad_records == {f'numbers/{i}' for i in bad}
  for batch, good in zip(made, take(10, Numbers(20)), strict=True):
    expected = [n not in bad for n in numbers(good)]
    assert batch['mask'].tolist() == expected
    for key in ('image', 'label'):
      np.testing.assert_array_equal(batch[key][expected], good[key][expected])
      assert not batch[key][~batch['mask']].any()


def test_one_more_than_tolerated():
  with pytest.raises(
    InputError,
    match=r'^Record numbers/9 is damaged, after 2 other\(s\): image is truncated\. .*'
    r'max_bad_records=3 \(or more\)',
  ):
    take_eval(Numbers(20, damaged={1, 5, 9, 12}), max_bad_records=2)


def test_bad_records_are_those_of_delivered_batches():
  with evaluate(
    Numbers(64, damaged={1, 63}), preprocess, batch_size=8, max_bad_records=2
  ) as batches:
    next(batches)
    time.sleep(0.2)  # more batches are ready but not delivered
    assert batches.bad_records == {'numbers/1'}
    list(batches)
    assert batches.bad_records == {'numbers/1', 'numbers/63'}


def warn_of_some(data, rng):
  if data in (b'3', b'17'):
    warn(f'{int(data)} extraneous bytes')
    warn('its EXIF block is damaged')
  return preprocess(data, rng)


@pytest.mark.parametrize('workers', [0, 1])
def test_records_with_warnings_are_used_counted_and_named_once(workers, messages):
  options = {'batch_size': 20, 'num_workers': workers, 'seed': SEED}
  with train(Numbers(20), warn_of_some, **options) as batches:
    made = list(itertools.islice(batches, 4))  # 4 epochs
    assert batches.warned_records == {'numbers/3', 'numbers/17'}
    assert not batches.bad_records
  assert_equal(made, take(4, Numbers(20), batch_size=20))
  assert len(messages) == 2
  by_record = {message.split()[1]: message for message in messages}
  for record, number in (('numbers/3', 3), ('numbers/17', 17)):
    place = 1 + messages.index(by_record[record])
    assert by_record[record] == (
      f'Record {record} was read with a warning: {number} extraneous bytes; its EXIF block is '
      f'damaged. (Records with warnings so far: {place}.)'
    )


def take_too_much_memory(data, rng):
  if data == b'3':
    raise MemoryError
  return preprocess(data, rng)


def test_a_record_that_does_not_fit_in_memory_is_damaged():
  with evaluate(Numbers(5), take_too_much_memory, batch_size=5, max_bad_records=1) as batches:
    (batch,) = batches
  assert batch['mask'].tolist() == [True, True, True, False, True]
  with pytest.raises(
    InputError,
    match=r'^Record numbers/3 is damaged: there is not enough memory to decode it\. Repair',
  ):
    list(evaluate(Numbers(5), take_too_much_memory, batch_size=5))


@pytest.mark.parametrize('workers', [0, 1])
def test_other_exceptions_reach_next(workers):
  batches = evaluate(Numbers(20), failing_preprocess, batch_size=4, num_workers=workers)
  with pytest.raises(RuntimeError, match='a bug'):
    list(batches)
  assert not list(batches)


def test_an_input_error_is_no_damaged_record():
  def unlabeled(data, rng):
    if data == b'3':
      raise InputError('this split has no labels')
    return preprocess(data, rng)

  with pytest.raises(InputError) as e:
    list(evaluate(Numbers(9), unlabeled, batch_size=8, max_bad_records=9))
  assert str(e.value) == 'this split has no labels'


# Starting and stopping.


def wait_for(condition):
  deadline = time.monotonic() + 10
  while not condition() and time.monotonic() < deadline:
    time.sleep(0.01)
  assert condition()


def test_batches_are_made_ahead():
  batches = train(Numbers(100), preprocess, batch_size=8, seed=0)
  wait_for(lambda: batches._queue.qsize() >= 2)
  batches.close()


@pytest.mark.parametrize('read, options', [(0, {}), (3, {}), (1, {'num_workers': 2})])
def test_close_is_prompt_and_leaves_nothing(read, options):
  import multiprocessing

  before = threading.active_count()
  batches = train(Numbers(10_000), slow_preprocess, batch_size=64, seed=0, **options)
  for _ in range(read):
    next(batches)
  begin = time.monotonic()
  batches.close()
  batches.close()
  assert time.monotonic() - begin < 8
  assert not list(batches)
  if options:
    assert not multiprocessing.active_children()
  else:
    wait_for(lambda: threading.active_count() <= before)


def test_dropping_the_iterator_stops_its_threads():
  before = threading.active_count()
  batches = train(Numbers(100), slow_preprocess, batch_size=8, seed=0)
  next(batches)
  del batches
  wait_for(lambda: threading.active_count() <= before)


def test_close_wakes_a_waiting_consumer():
  batches = train(Numbers(100), preprocess, batch_size=8, seed=0)
  consumer = threading.Thread(target=lambda: list(batches))
  consumer.start()
  time.sleep(0.1)
  batches.close()
  consumer.join(timeout=10)
  assert not consumer.is_alive()


def test_a_program_ends_without_close():
  code = """
from tests.data import test_pipeline as t
batches = t.train(t.Numbers(100), t.slow_preprocess, batch_size=8)
next(batches)
"""
  environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
  result = subprocess.run(
    [sys.executable, '-c', code],
    env=environment,
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
  )
  assert (result.returncode, result.stderr) == (0, '')


def test_many_starts_and_stops():
  for read in list(range(5)) * 10:
    take(read, Numbers(100), num_threads=4)


def test_real_images_by_all_presets(tmp_path):
  from vit_jax.data import preprocess as preprocess_lib
  from vit_jax.data.open_source import open_source

  opened = open_source('digits', 'train[:50]', str(tmp_path))
  for preset in ('inception', 'bit'):
    function = preprocess_lib.make_train_preprocess(preset, 16, flip=False)
    with train(opened, function, batch_size=10, seed=0) as batches:
      made = list(itertools.islice(batches, 5))
    assert sorted(np.concatenate([b['label'] for b in made])) == sorted(
      opened[i]['label'] for i in range(50)
    )
    assert all(b['image'].shape == (10, 16, 16, 3) and b['image'].std() > 30 for b in made)
    # Each row is the image that the order gives, preprocessed with the generator of the order.
    order = TrainOrder(50, 0)
    for g in (0, 7, 49):
      np.testing.assert_array_equal(
        made[g // 10]['image'][g % 10], function(opened[order.index(g)]['image'], order.rng(g))
      )


def test_a_killed_worker_is_explained():
  batches = train(Numbers(20), preprocess, batch_size=4, num_workers=1)
  next(batches)
  (worker,) = multiprocessing.active_children()
  worker.kill()
  with pytest.raises(RuntimeError) as error:
    for _ in range(10_000):
      next(batches)
  assert explain(error.value) == (
    'A worker process that reads images ended with exit code -9. If it was killed for lack of '
    'memory, set a smaller --config.num_workers or --config.batch_size.'
  )
