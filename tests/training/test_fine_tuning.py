"""Runs of fine-tuning: averaged parameters, a new head at a higher resolution, frozen blocks."""

import json

import jax
import pytest

from vit_jax import create_model, load_params
from vit_jax.config.fields import default_config
from vit_jax.evaluation.mean_metrics import evaluate
from vit_jax.pretrained.fingerprint import named_leaves
from vit_jax.training import step as step_lib
from vit_jax.training.inputs import Inputs
from vit_jax.training.loop import train
from vit_jax.training.objectives import supervised


def config(data_dir, **fields):
  c = default_config()
  c.model, c.num_layers, c.hidden_dim, c.mlp_dim, c.num_heads = 'ViT-Ti/4', 2, 16, 32, 2
  c.dataset, c.data_dir, c.image_size, c.preset, c.dtype = 'digits', data_dir, 8, 'bit', 'float32'
  c.batch_size, c.total_steps, c.warmup_steps, c.lr = 64, 6, 0, 1e-3
  c.eval_every = c.save_every = 3
  c.eval_split = 'test[:100]'
  c.update(fields)
  return c


@pytest.fixture(scope='module')
def pretrained(digits_dir, tmp_path_factory):
  """Return the workdir and metrics of a run of six steps that keeps an average."""
  workdir = tmp_path_factory.mktemp('pretrained') / 'run'
  return workdir, train(config(digits_dir, average=0.9), workdir)


def test_the_average_is_evaluated_resumed_and_exported(pretrained, digits_dir, tmp_path):
  workdir, metrics = pretrained
  c = config(digits_dir, average=0.9)
  model = create_model(
    c.model, num_classes=10, image_size=8, hidden_dim=16, mlp_dim=32, num_heads=2, num_layers=2
  )
  params = load_params(workdir, model)
  step = jax.jit(step_lib.make_eval_step(supervised(model)))
  with Inputs(c).eval_batches() as batches:
    averaged = evaluate(step, params, batches)
  assert averaged['examples'] == metrics['eval/average_examples'] == 100
  assert averaged['accuracy'] == metrics['eval/average_accuracy']
  assert averaged['loss'] == pytest.approx(metrics['eval/average_loss'], rel=1e-5)
  assert metrics['eval/loss'] != metrics['eval/average_loss']

  half, resumed = config(digits_dir, average=0.9), tmp_path / 'resumed'
  half.total_steps = 3
  half.schedule = c.schedule = 'steps'  # does not depend on the last step
  train(half, resumed)
  assert train(c, resumed)['eval/average_loss'] == train(c, tmp_path / 'whole')['eval/average_loss']


def test_fine_tuning_at_a_higher_resolution(pretrained, digits_dir, tmp_path):
  """Start from a run, with a new head and resized positions. Frozen blocks do not change."""
  workdir, _ = pretrained
  c = config(
    digits_dir,
    image_size=16,
    init_from=str(workdir),
    new_head=True,
    optimizer='sgd',
    trained_blocks=1,
    weight_decay=0.0,
  )
  train(c, tmp_path / 'run')
  log = (tmp_path / 'run' / 'log.txt').read_text()
  assert (
    'Replaced the head of 10 classes with a new head of 10 classes, initialized to zero.' in log
  )
  assert 'Resized the position embedding from 2x2 patches to a grid of 4x4 patches.' in log
  fields = dict(num_classes=10, hidden_dim=16, mlp_dim=32, num_heads=2, num_layers=2)
  small = load_params(workdir, create_model('ViT-Ti/4', image_size=8, **fields))
  large = load_params(tmp_path / 'run', create_model('ViT-Ti/4', image_size=16, **fields))
  block = lambda params, i: dict(zip(*named_leaves(params['Transformer'][f'encoderblock_{i}'])))
  (first, last), (first_after, last_after) = (
    [block(params, i) for i in range(2)] for params in (small, large)
  )
  assert all((first[name] == first_after[name]).all() for name in first)
  kernels = [name for name in last if name.endswith('kernel')]  # key biases have no gradient
  assert len(kernels) == 6 and all((last[name] != last_after[name]).any() for name in kernels)


def test_the_average_is_on_record_beside_the_parameters(pretrained):
  rows = [json.loads(line) for line in (pretrained[0] / 'metrics.jsonl').read_text().splitlines()]
  steps = lambda name: [r['step'] for r in rows if name in r]
  assert steps('eval/accuracy') == steps('eval/average_accuracy') == [3, 6]
