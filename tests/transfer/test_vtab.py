"""The command for VTAB-1k: its configs, its bookkeeping, its table, and a real run."""

import jax
import numpy as np
import pytest

from tests.helpers.paths import FILES
from tests.helpers.vtab_files import TEST_SIZES, write_dataset
from vit_jax.config.fields import model_overrides
from vit_jax.data import vtab_tasks as data
from vit_jax.errors import InputError, Interrupted, NotFinite
from vit_jax.models.create import create_model
from vit_jax.pretrained.load import load_params
from vit_jax.pretrained.save import save_params
from vit_jax.training.workdir import lock_workdir
from vit_jax.transfer import runs as runs_lib
from vit_jax.transfer import vtab

CHECKPOINTS = FILES


def test_the_protocol():
  c = vtab.task_config('svhn', {'model': 'ViT-L/16', 'init_from': 'x.npz', 'accumulate': 4})
  assert (c.dataset, c.batch_size, c.total_steps, c.lr, c.warmup_steps) == (
    'vtab/svhn',
    512,
    2500,
    0.01,
    500,
  )
  assert (c.optimizer, c.momentum, c.weight_decay, c.clip_norm, c.schedule) == (
    'sgd',
    0.9,
    0.0,
    1.0,
    'cosine',
  )
  assert (c.model, c.init_from, c.accumulate) == ('ViT-L/16', 'x.npz', 4)
  assert vtab.task_config('svhn', {'image_size': 240}).resize_size == 280
  with pytest.raises(
    InputError, match="Unknown config field 'batchsize'. Did you mean 'batch_size'[?]"
  ):
    vtab.task_config('svhn', {'batchsize': 8})
  with pytest.raises(InputError, match="config.batch_size='x' has the wrong type. Could not"):
    vtab.task_config('svhn', {'batch_size': 'x'})
  assert vtab.task_config('svhn', {'num_epochs': 5.0}).total_steps is None  # replaces the 2,500
  with pytest.raises(InputError, match='^config.dataset is that of each task. Choose the tasks'):
    vtab.task_config('svhn', {'dataset': 'cifar10'})


@pytest.mark.parametrize(
  'flags, words',
  [
    (['--set=beta1=.5'], "config.beta1=0.5 has no effect with config.optimizer='sgd'. Leave it"),
    (
      ['--set=num_epochs=5', '--set=total_steps=9'],
      'config.num_epochs=5 and config.total_steps=9 both set the length of the run. Give one of',
    ),
    (['--seed=1', '--set=seed=2'], '--seed and --set=seed=2 say the same. Give only --seed.'),
    (
      ['--set=init_from=x'],
      '--checkpoint and --set=init_from=x say the same. Give only --checkpoint.',
    ),
  ],
)
def test_flags_that_would_be_ignored(tmp_path, capsys, flags, words):
  checkpoint = f'--checkpoint={CHECKPOINTS}/vit_token.npz'
  assert vtab.main([checkpoint, f'--workdir={tmp_path}', '--tasks=pets', *flags]) == 1
  assert f'error: {words}' in capsys.readouterr().err


def test_the_model_is_that_of_the_checkpoint(tmp_path):
  """The model may have any size, head and classes. The new head is zero, without hidden layer."""
  path = tmp_path / 'model.npz'
  pretrained = create_model(
    'ViT-Ti/8',
    num_classes=7,
    image_size=16,
    num_layers=2,
    head='token',
    representation_size=192,
    registers=1,
  )
  params = jax.tree.map(
    np.asarray, pretrained.init(jax.random.key(0), np.zeros((1, 16, 16, 3)))['params']
  )
  save_params(params, path, model=pretrained)
  fields = vtab.checkpoint_fields(str(path))
  assert fields['init_from'] == str(path)
  assert not {'num_classes', 'representation_size'} & set(fields)
  c = vtab.task_config('dmlab', fields | {'image_size': 32})
  model = create_model(c.model, num_classes=6, image_size=c.image_size, **model_overrides(c))
  loaded = load_params(c.init_from, model)
  assert 'pre_logits' not in loaded and c.num_layers == 2 and c.registers == 1
  assert loaded['head']['kernel'].shape == (192, 6) and not loaded['head']['kernel'].any()
  np.testing.assert_array_equal(loaded['embedding']['kernel'], params['embedding']['kernel'])
  with pytest.raises(InputError, match='none.npz'):
    vtab.checkpoint_fields(str(tmp_path / 'none.npz'))


@pytest.mark.parametrize(
  'path',
  [
    'vit_token.npz',
    'vit_gap.npz',
    'vit_pre_logits.npz',
    'dialect2_map.npz',
    'dialect2_gap_scan.npz',
    'hybrid_stem.npz',
    'hf_tiny',
    'dinov2_tiny',
  ],
)
def test_every_published_kind_becomes_a_config(path):
  c = vtab.task_config('pets', vtab.checkpoint_fields(str(CHECKPOINTS / path)))
  assert c.model and c.num_classes is None and c.representation_size is None


def test_missing_data_is_named_with_the_command(tmp_path):
  missing = vtab.missing_data(data.TASKS, str(tmp_path))
  assert list(missing) == list(data.TASKS)
  assert (
    missing['clevr_count']
    == missing['clevr_distance']
    == (
      f'The dataset clevr is not prepared in {tmp_path}. Prepare it with '
      f'`python -m vit_jax.tools.prepare clevr --data_dir={tmp_path}`.'
    )
  )
  assert 'prepare sun397/tfds --data_dir' in missing['sun397']
  assert 'First download files into' in missing['retinopathy']


def test_nothing_is_missing(vtab_dir):
  assert vtab.missing_data(data.TASKS, str(vtab_dir)) == {}


def test_means_and_table():
  results = {
    name: dict(accuracy=0.5, examples=size, config={}) for name, size in TEST_SIZES.items()
  }
  results['dmlab']['accuracy'] = 0.9
  del results['pets']
  accuracies = {name: r['accuracy'] for name, r in results.items()}
  assert vtab.means(accuracies) == {
    'natural': (0.5, 6, 7),
    'specialized': (0.5, 4, 4),
    'structured': (pytest.approx(0.55), 8, 8),
    'all': (pytest.approx((17 * 0.5 + 0.9) / 18), 18, 19),
  }
  lines = [line.split() for line in vtab.table(results).splitlines()]
  assert len(lines) == 1 + 19 + 4
  assert ['dmlab', 'structured', '22,735', '90.00'] in lines
  assert ['pets', 'natural', '-', '-'] in lines
  assert lines[-4:] == [
    ['mean', 'natural', '6', 'of', '7', '50.00'],
    ['mean', 'specialized', '4', 'of', '4', '50.00'],
    ['mean', 'structured', '8', 'of', '8', '55.00'],
    ['mean', 'all', '18', 'of', '19', '52.22'],
  ]
  assert vtab.table({}).splitlines()[-1].split() == ['mean', 'all', '0', 'of', '19', '-']


@pytest.fixture
def runs(monkeypatch):
  """Return a list that collects the trained tasks. The one named in `stop` is interrupted."""

  class Runs(list):
    stop = None

  done = Runs()

  def train(config, workdir, keep):
    (workdir / 'checkpoints' / '2500').mkdir(parents=True)
    if config.dataset == done.stop:
      raise Interrupted()
    if config.lr > 1:
      raise NotFinite('The loss is nan at step 7. Nothing was saved. Try a lower lr.')
    done.append(config.dataset)
    return {'eval/accuracy': len(done) / 10, 'eval/examples': 711.0, 'train/loss': 1.0}

  monkeypatch.setattr(runs_lib, 'train', train)
  return done


def test_the_command_line(tmp_path, runs, vtab_dir, capsys, monkeypatch):
  monkeypatch.setattr(vtab, 'checkpoint_fields', lambda path: {'model': 'ViT-B/16'})
  monkeypatch.setattr(vtab.hosts, 'start', lambda: None)  # conftest has initialized JAX
  partly = tmp_path / 'data'
  write_dataset(partly, 'kitti')
  arguments = ['--checkpoint=x.npz', f'--workdir={tmp_path}/runs', '--set=batch_size=64']
  assert (
    vtab.main(
      [*arguments, f'--data_dir={partly}', '--tasks=kitti_distance,clevr_count,dtd,clevr_distance']
    )
    == 1
  )
  out, err = capsys.readouterr()
  assert ['kitti_distance', 'structured', '711', '10.00'] in [x.split() for x in out.splitlines()]
  assert 'kitti_distance: task 1 of 4' in err
  err = err[err.index('error: ') :]
  assert len(err.splitlines()) == 2
  assert err.startswith('error: clevr_count, clevr_distance: The dataset clevr is not prepared in')
  assert vtab.main([*arguments, f'--data_dir={vtab_dir}']) == 0
  assert len(runs) == 19
  assert ['mean', 'all', '19', 'of', '19', '100.00'] in [
    x.split() for x in capsys.readouterr().out.splitlines()
  ]
  again = [*arguments, f'--data_dir={vtab_dir}', f'--workdir={tmp_path}/high', '--set=lr=9.']
  for _ in range(2):  # trained now, and read from an earlier result
    assert vtab.main([*again, '--tasks=pets,dtd']) == 1
    out, err = capsys.readouterr()
    assert ['pets', 'natural', '-', '-'] in [x.split() for x in out.splitlines()]
    assert err.splitlines()[-1] == 'error: pets, dtd: The loss is nan at step 7'
  with lock_workdir(tmp_path / 'runs'):  # as another command does
    assert vtab.main([*arguments, f'--data_dir={vtab_dir}']) == 1
  assert f'error: The workdir {tmp_path}/runs is in use by process' in capsys.readouterr().err
  path = tmp_path / 'runs' / 'dtd' / 'result.json'  # as if an earlier version had been told so
  path.write_text(path.read_text().replace('"beta1": 0.9', '"beta1": 0.5'))
  again = [*arguments, f'--data_dir={vtab_dir}', '--tasks=dtd', '--set=beta1=.5']
  assert vtab.main(again) == 0 and len(runs) == 19
  assert capsys.readouterr().err.count('config.beta1=0.5 has no effect with config.opt') == 1
  assert vtab.main([*arguments, '--tasks=petz']) == 1
  assert "Unknown VTAB task 'petz'. Did you mean 'pets'?" in capsys.readouterr().err


@pytest.mark.slow
def test_a_checkpoint_is_really_transferred(tmp_path, capsys, monkeypatch):
  """Training on 1,000 copies of four images classifies all 711 test images correctly."""
  monkeypatch.setattr(vtab.hosts, 'start', lambda: None)  # conftest has initialized JAX
  write_dataset(tmp_path / 'data', 'kitti')
  model = create_model(
    'ViT-Ti/8', num_classes=7, image_size=16, num_layers=2, representation_size=192
  )
  save_params(
    jax.tree.map(np.asarray, model.init(jax.random.key(0), np.zeros((1, 16, 16, 3)))['params']),
    tmp_path / 'm.npz',
    model=model,
  )
  arguments = [
    f'--checkpoint={tmp_path}/m.npz',
    f'--workdir={tmp_path}/runs',
    f'--data_dir={tmp_path}/data',
    '--tasks=kitti_distance',
    '--set=total_steps=20',
    '--set=warmup_steps=2',
    '--set=batch_size=64',
    '--set=image_size=32',
    '--set=dtype=float32',
  ]
  assert vtab.main(arguments) == 0
  row = ['kitti_distance', 'structured', '711', '100.00']
  assert row in [line.split() for line in capsys.readouterr().out.splitlines()]
  log = (tmp_path / 'runs' / 'kitti_distance' / 'log.txt').read_text()
  monkeypatch.setattr(runs_lib, 'train', None)
  assert vtab.main(arguments) == 0
  assert row in [line.split() for line in capsys.readouterr().out.splitlines()]
  assert 'Replaced the head of 7 classes with' in log
