"""The images of a run: those that a file of ids leaves out, and those of WebDataset shards."""

import json
import re

import numpy as np
import pytest

from tests.helpers.jobs import interrupted
from tests.helpers.tars import write_shards
from vit_jax.config.fields import default_config
from vit_jax.data.open_source import open_source
from vit_jax.data.subset import without
from vit_jax.dedup.example_ids import ExampleId, ExampleIds
from vit_jax.dedup.ids_file import format_ids
from vit_jax.errors import InputError
from vit_jax.pretrained.fingerprint import fingerprint
from vit_jax.pretrained.formats import read_arrays
from vit_jax.training.inputs import Inputs
from vit_jax.training.loop import train


def config(data_dir, ids, **fields):
  c = default_config()
  c.update(
    dict(
      model='ViT-Ti/4',
      num_layers=1,
      hidden_dim=16,
      mlp_dim=32,
      num_heads=2,
      dtype='float32',
      dataset='digits',
      data_dir=data_dir,
      image_size=8,
      resize_size=8,
      preset='bit',
      flip='no',
      train_split='train[:60]',
      eval_split='none',
      batch_size=16,
      total_steps=6,
      warmup_steps=0,
      exclude_ids=str(ids),
    )
    | fields
  )
  return c


@pytest.fixture
def ids(digits_dir, tmp_path):
  """Return a file that lists the training images 3, 17, 59 and 700."""
  path = tmp_path / 'ids.txt'
  path.write_text(
    format_ids(
      ExampleIds('digits', 'train', digits_dir),
      threshold='8',
      against='digits:test',
      reasons={ExampleId('train', i): 'a test' for i in (3, 17, 59, 700)},
    )
  )
  return path


def pixels(batch):
  return {image.tobytes() for image in batch['image']}


def test_the_images_never_come_and_all_others_do(ids, digits_dir):
  inputs = Inputs(config(digits_dir, ids))
  assert len(inputs.train) == 57
  with inputs.train_batches(0) as batches:
    seen = set().union(*(pixels(next(batches)) for _ in range(4)))  # more than an epoch
  whole = Inputs(config(digits_dir, ''))
  with whole.train_batches(0) as batches:
    everything = set().union(*(pixels(next(batches)) for _ in range(4)))
  assert len(everything) == 60 and len(seen) == 57 and seen < everything
  with inputs.train_batches(2) as batches:  # as in a resumed run
    later = next(batches)
  with inputs.train_batches(0) as batches:
    np.testing.assert_array_equal([next(batches)['image'] for _ in range(3)][2], later['image'])


def test_a_run_says_how_many(ids, digits_dir, tmp_path):
  train(config(digits_dir, ids), tmp_path / 'run')
  log = (tmp_path / 'run' / 'log.txt').read_text()
  assert f'digits: leaving out 3 of 60 training images, which {ids} lists.' in log
  assert 'digits: 57 training images' in log


def test_without(digits_dir):
  source = open_source('digits', 'train[:5]', digits_dir)
  rest = without(source, np.array([0, 3]))
  assert [rest.location(i) for i in range(3)] == [source.location(i) for i in (1, 2, 4)]
  assert [rest.label(i) for i in range(3)] == [source[i]['label'] for i in (1, 2, 4)]
  with pytest.raises(InputError, match='All 5 examples are excluded, so none remain'):
    without(source, np.arange(5))


def test_ids_of_another_dataset(ids, shapes, tmp_path):
  with pytest.raises(
    InputError, match='^The ids in .* belong to digits/1.0.0, not to shapes/1.2.0. '
  ):
    Inputs(config(shapes[0], ids, dataset='shapes', train_split=''))
  with pytest.raises(InputError, match='^Cannot read .*nowhere.txt: No such file or directory.$'):
    Inputs(config(shapes[0], tmp_path / 'nowhere.txt', dataset='shapes', train_split=''))


def folder_config(folder, **fields):
  return config(None, '', dataset=str(folder), train_split='train', eval_split=None, **fields)


def test_classes_without_images_are_an_error_unless_allowed(tmp_path):
  for name in ('train/a', 'train/b', 'train/c', 'val/a'):
    (tmp_path / name).mkdir(parents=True)
    if name != 'train/b':
      (tmp_path / name / '1.png').write_bytes(b'')
  c = folder_config(tmp_path, exclude_ids=None)
  with pytest.raises(InputError) as e:
    Inputs(c)
  assert str(e.value) == (
    f'{tmp_path} has no training images of 1 of its 3 classes: b. Add images, remove the folders '
    'of these classes, or pass --config.allow_empty_classes=True.'
  )
  c.allow_empty_classes = True
  inputs = Inputs(c)
  assert (inputs.num_classes, inputs.eval_name) == (3, 'val')


def test_no_evaluation_is_said(tmp_path, messages):
  (tmp_path / 'train' / 'a').mkdir(parents=True)
  (tmp_path / 'train' / 'a' / '1.png').write_bytes(b'')
  (tmp_path / 'holdout').mkdir()
  c = folder_config(tmp_path, exclude_ids=None)
  assert Inputs(c).eval is None
  assert messages == [
    f'NO EVALUATION: {tmp_path} has no split that is called val, validation, valid, test or the '
    'like. Its splits are holdout, train. Choose one with --config.eval_split, such as train[90%:] '
    'with --config.train_split=train[:90%], or pass --config.eval_split=none.'
  ]
  c.eval_split = 'none'
  assert Inputs(c).eval is None and len(messages) == 1


@pytest.mark.parametrize('multi_label', [False, True])
def test_shapes_are_those_of_a_batch(digits_dir, multi_label, monkeypatch):
  inputs = Inputs(config(digits_dir, ''))
  if multi_label:
    read = type(inputs.train).__getitem__
    hot = lambda source, i: {**read(source, i), 'label': np.ones(10, np.uint8)}
    monkeypatch.setattr(type(inputs.train), '__getitem__', hot)
    monkeypatch.setattr(inputs.train, 'multi_label', True)
  with inputs.train_batches(0) as batches:
    batch = next(batches)
  describe = lambda x: (x.shape, x.dtype)
  assert {k: describe(x) for k, x in inputs.train_shapes().items()} == {
    k: describe(x) for k, x in batch.items()
  }


@pytest.mark.slow
def test_a_run_on_shards_resumes_bitwise_also_after_a_move(tmp_path, monkeypatch):
  here, there = tmp_path / 'here', tmp_path / 'there'
  write_shards(here, 'digits-train', 3, 15)
  write_shards(here, 'digits-validation', 2, 5, first=1000)
  fields = dict(train_split=None, eval_split=None, exclude_ids=None, eval_every=3, save_every=2)
  shards = 'wds:{}/digits-{{train,validation}}-*.tar'
  c = config(None, None, dataset=shards.format(here), **fields)
  train(c, tmp_path / 'whole')
  interrupted(monkeypatch, 2, c, tmp_path / 'parts')
  here.rename(there)
  c.dataset = shards.format(there)
  train(c, tmp_path / 'parts')
  assert fingerprint(read_arrays(tmp_path / 'whole')) == fingerprint(
    read_arrays(tmp_path / 'parts')
  )
  log = (tmp_path / 'parts' / 'log.txt').read_text()
  assert 'Note: config.dataset was' in log
  assert re.search('step 6: validation accuracy .* on 10 images', log)
  config_json = json.loads((tmp_path / 'whole' / 'config.json').read_text())
  assert config_json['dataset'] == shards.format(here)
  # Shards of other images are refused.
  write_shards(there, 'digits-train', 3, 14)
  with pytest.raises(InputError, match='there are 42 images instead of 45'):
    train(c, tmp_path / 'parts')
