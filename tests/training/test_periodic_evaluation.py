"""Evaluations during a run come at the right steps, once each, and after a restart if missed."""

import json

import pytest

from vit_jax import create_model, load_params
from vit_jax.config.fields import default_config
from vit_jax.data.batch import ReadOptions
from vit_jax.errors import InputError
from vit_jax.evaluation.fewshot import FewShot, FewShotProtocol, make_represent_step
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.training.loop import train

FIELDS = dict(num_layers=1, hidden_dim=16, mlp_dim=32, num_heads=2)


def config(data_dir, **fields):
  c = default_config()
  c.update(FIELDS)
  c.model, c.representation_size, c.image_size, c.dtype = 'ViT-Ti/4', 12, 8, 'float32'
  c.dataset, c.data_dir, c.preset, c.eval_split = 'digits', data_dir, 'bit', 'test[:60]'
  c.batch_size, c.total_steps, c.warmup_steps, c.lr, c.schedule = 64, 4, 0, 1e-3, 'steps'
  c.eval_every, c.save_every, c.fewshot, c.fewshot_every = 2, 1, 'digits', 3
  c.update(fields)
  return c


def on_record(workdir, name):
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return {row['step']: row[name] for row in rows if name in row}


@pytest.fixture(scope='module')
def run(digits_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run') / 'run'
  return workdir, train(config(digits_dir, fewshot='digits,'), workdir)  # a comma too many


def test_few_shot_accuracy_of_the_last_step_is_that_of_the_checkpoint(run, digits_dir):
  workdir, metrics = run
  assert list(on_record(workdir, 'eval/accuracy')) == [2, 4]
  assert list(on_record(workdir, 'fewshot/digits_5shot')) == [3, 4]
  model = create_model('ViT-Ti/4', num_classes=10, image_size=8, representation_size=12, **FIELDS)
  partitioner = MeshPartitioner(64)
  fewshot = FewShot(
    'digits',
    partitioner.gather_step(make_represent_step(model)),
    FewShotProtocol(image_size=8),
    ReadOptions(batch_size=64),
    data_dir=digits_dir,
  )
  accuracies = fewshot(partitioner.put(load_params(workdir, model)))
  assert set(accuracies) == {f'fewshot/digits_{k}shot' for k in (1, 5, 10, 25)}
  for name, value in accuracies.items():
    assert metrics[name] == pytest.approx(value, abs=1 / 360)  # an image may be at the border
  assert metrics['fewshot/digits_25shot'] > 0.25  # chance is .1


def test_what_a_kill_cut_off_is_made_up_for(run, digits_dir):
  """The run ends with step 4 saved, but without its few-shot metrics."""
  workdir, metrics = run
  path = workdir / 'metrics.jsonl'
  lines = path.read_text().splitlines()
  last = next(i for i, line in enumerate(lines) if '"step": 4' in line and 'fewshot' in line)
  path.write_text('\n'.join(lines[:last]) + '\n')
  assert list(on_record(workdir, 'fewshot/digits_5shot')) == [3]
  again = train(config(digits_dir), workdir)
  assert (
    on_record(workdir, 'fewshot/digits_5shot')[4]
    == again['fewshot/digits_5shot']
    == metrics['fewshot/digits_5shot']
  )
  assert len(on_record(workdir, 'eval/accuracy')) == 2  # this one was written before


def test_few_shot_data_is_opened_before_the_first_step(digits_dir, tmp_path):
  with pytest.raises(InputError, match="Unknown dataset 'digitz'. Did you mean digits"):
    train(config(digits_dir, fewshot='digitz'), tmp_path / 'run')
