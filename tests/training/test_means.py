"""The logged loss and accuracy are means over the steps since the last line."""

import json
import random

import numpy as np
import pytest

from tests.helpers.jobs import FIGURES, interrupted
from vit_jax.config.fields import default_config
from vit_jax.training import loop as train_lib
from vit_jax.training.means import StepMeans


def test_means_and_the_sums_of_a_checkpoint():
  rng = random.Random(0)
  steps = {i: {'loss': rng.random(), 'accuracy': rng.random()} for i in range(1, 8)}
  whole = StepMeans()
  for i in range(1, 8):
    whole.add(i, steps[i])
    whole.add(i, steps[i])  # counted once
    if i == 2:
      first = whole.read()
  assert first == {
    f'train/{name}': (steps[1][name] + steps[2][name]) / 2 for name in ('loss', 'accuracy')
  }
  part = StepMeans()
  for i in range(1, 5):
    part.add(i, steps[i])
    if i == 2:
      part.read()
  saved = json.loads(json.dumps(part.sums()))
  assert saved['steps'] == 2 and saved['first_loss'] == steps[1]['loss']
  resumed = StepMeans(saved, step=4)
  for i in range(3, 8):
    resumed.add(i, steps[i])
  assert resumed.read() == whole.read()
  assert resumed.sums() == {
    'steps': 0,
    'loss': 0.0,
    'accuracy': 0.0,
    'first_loss': steps[1]['loss'],
  }


def test_a_checkpoint_of_an_earlier_version_has_no_sums():
  means = StepMeans(None, step=4)
  means.add(5, {'loss': 2.0, 'accuracy': 0.5})
  assert means.read() == {'train/loss': 2.0, 'train/accuracy': 0.5} and means.first_loss is None


def config(data_dir, **changes):
  c = default_config()
  c.update(
    dict(model='ViT-Ti/8', num_layers=1, hidden_dim=16, mlp_dim=32, num_heads=2, image_size=16),
    dtype='float32',
    dropout=0.1,
    dataset='digits',
    data_dir=data_dir,
    preset='bit',
    batch_size=16,
    total_steps=8,
    lr=1e-2,
    warmup_steps=2,
    log_every=3,
    eval_split='none',
    num_threads=2,
  )
  c.update(changes)
  return c


def lines(workdir):
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return [{k: v for k, v in row.items() if k not in FIGURES} for row in rows]


@pytest.mark.parametrize('parallel', ['pmap', pytest.param('mesh', marks=pytest.mark.slow)])
def test_a_line_is_the_mean_of_its_steps_however_often_the_run_was_stopped(
  tmp_path, digits_dir, monkeypatch, parallel
):
  c = config(digits_dir, parallel=parallel)
  train_lib.train(config(digits_dir, parallel=parallel, log_every=1), tmp_path / 'each')
  each = {row['step']: row for row in lines(tmp_path / 'each')}
  result = train_lib.train(c, tmp_path / 'whole')
  whole = lines(tmp_path / 'whole')
  assert [row['step'] for row in whole] == [3, 6, 8]
  for row, steps in zip(whole, ((1, 2, 3), (4, 5, 6), (7, 8)), strict=True):
    for name in ('train/loss', 'train/accuracy'):
      assert row[name] == pytest.approx(np.mean([each[i][name] for i in steps]), rel=1e-12)
    assert row['train/lr'] == each[row['step']]['train/lr']
  assert result['train/first_loss'] == each[1]['train/loss']
  parts = tmp_path / 'parts'
  interrupted(monkeypatch, 2, c, parts)  # after step 2, between two lines
  interrupted(monkeypatch, 3, c, parts)  # after step 5
  assert [row['step'] for row in lines(parts)] == [3]
  assert train_lib.train(c, parts)['train/first_loss'] == result['train/first_loss']
  assert lines(parts) == whole
