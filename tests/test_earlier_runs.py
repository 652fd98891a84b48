"""Workdirs, configs and command lines that earlier commits wrote go on working.

tests/data/files/earlier_run is a run of 8 steps that was stopped after 4, with the metrics of the
same run uninterrupted beside it; earlier_sweep is a whole sweep. Both were written when "not set"
was spelled 0, '', -1 or (0, 0).
"""

import json
import shutil

import numpy as np
import pytest

from tests.helpers.earlier_dropout import earlier_mask
from tests.helpers.paths import FILES, ROOT
from vit_jax import load_model
from vit_jax.config.flags import parse_config
from vit_jax.config.run import read_curves
from vit_jax.models import dropout
from vit_jax.training.command_line import define_flags
from vit_jax.training.loop import train
from vit_jax.transfer.sweep import Splits, sweep

RUN, SWEEP = FILES / 'earlier_run', FILES / 'earlier_sweep'
FLAGS = (
  'num_layers=1 hidden_dim=16 mlp_dim=32 num_heads=2 batch_size=16 total_steps=8 warmup_steps=2 '
  'log_every=1 eval_every=4 save_every=4 eval_split=test[:64] augment=light2 trained_blocks=-1 '
  'average=.9 num_threads=1 clip_norm=1 compile_cache=none resize_size=0 image_size=16'
)
SWEEP_FLAGS = (
  'image_size=8 hidden_dim=16 mlp_dim=32 num_heads=2 num_layers=1 batch_size=64 total_steps=4 '
  'warmup_steps=1 eval_every=0 log_every=2 save_every=2 dtype=float32 num_threads=1 '
  'compile_cache=none'
)


def config(file, flags, data_dir):
  flags = [f'--config.{flag}' for flag in [*flags.split(), f'data_dir={data_dir}']]
  return parse_config(define_flags(), ['main', f'--config={ROOT}/configs/{file}', *flags])


@pytest.fixture
def workdir(tmp_path):
  return shutil.copytree(RUN, tmp_path / 'run')


def test_a_run_resumes_as_the_run_it_was(workdir, digits_dir, monkeypatch):
  # Only the masks of dropout are no longer those that the earlier version drew.
  monkeypatch.setattr(dropout, 'dropout_mask', earlier_mask)
  train(config('quickstart.py', FLAGS, digits_dir), workdir)
  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  for expected in map(json.loads, (RUN / 'uninterrupted.jsonl').read_text().splitlines()):
    metrics = {k: v for line in lines if line['step'] == expected['step'] for k, v in line.items()}
    for name, value in expected.items():
      assert metrics[name] == pytest.approx(value, rel=1e-5), f'{name} at step {expected["step"]}'


def test_a_run_is_loaded(workdir):
  model, params, class_names = load_model(workdir)
  assert model.variant == (16, 32, 2, 1) and model.image_size == (16, 16)
  assert class_names == [str(i) for i in range(10)]
  assert params['head']['kernel'].shape == (16, 10) and np.abs(params['head']['kernel']).max() > 0


def test_metrics_are_read():
  steps, accuracy = read_curves(RUN)['eval/average_accuracy']
  assert steps.tolist() == [4] and accuracy.tolist() == [0.140625]


def test_a_sweep_is_done(tmp_path, digits_dir):
  workdir = shutil.copytree(SWEEP, tmp_path / 'sweep')
  c = config('finetune.py:ViT-Ti/4,digits', SWEEP_FLAGS, digits_dir)
  splits = Splits('train[:90%]', 'train[90%:]', 'train', 'test')
  results = sweep(c, workdir, lrs=(0.01, 0.03), splits=splits, seeds=1, keep=False)
  expected = json.loads((SWEEP / 'results.json').read_text())
  for name in ('splits', 'lrs', 'best_lr', 'seeds', 'mean', 'std', 'best_seed', 'checkpoint'):
    assert results[name] == expected[name], name
  assert not list(workdir.rglob('checkpoints'))
