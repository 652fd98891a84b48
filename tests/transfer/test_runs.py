import json

import pytest

from vit_jax.config.old_spellings import OLD_SPELLINGS
from vit_jax.errors import InputError, Interrupted, NotFinite
from vit_jax.transfer import runs as lib
from vit_jax.transfer.vtab import task_config


@pytest.fixture
def trained(monkeypatch):
  """Return a list that collects the datasets trained on. Training on `stop` is interrupted."""

  class Trained(list):
    stop = None

  done = Trained()
  done.kept = []

  def train(config, workdir, keep):
    done.kept.append(keep)
    (workdir / 'checkpoints' / '2500').mkdir(parents=True)
    if config.dataset == done.stop:
      raise Interrupted()
    if config.lr > 1:
      raise NotFinite('The loss is 1.5e+30 at step 7. Nothing was saved. Try a lower lr.')
    done.append(config.dataset)
    return {'eval/accuracy': len(done) / 10, 'eval/examples': 711.0, 'train/loss': 1.0}

  monkeypatch.setattr(lib, 'train', train)
  return done


def test_finished_tasks_are_not_run_again(tmp_path, trained):
  configs = {name: task_config(name, {'model': 'ViT-B/16'}) for name in ('pets', 'dtd', 'svhn')}
  trained.stop = 'vtab/svhn'
  with pytest.raises(Interrupted):
    lib.run_all(configs, tmp_path)
  assert trained == ['vtab/pets', 'vtab/dtd']
  assert not (tmp_path / 'pets' / 'checkpoints').exists()
  assert (tmp_path / 'svhn' / 'checkpoints' / '2500').exists()  # the call that continues from here
  (tmp_path / 'svhn' / 'checkpoints' / '2500').rmdir()
  trained.stop = None
  results = lib.run_all(configs, tmp_path, keep=True)
  assert trained == ['vtab/pets', 'vtab/dtd', 'vtab/svhn']
  assert [(n, r['accuracy'], r['examples']) for n, r in results.items()] == [
    ('pets', 0.1, 711),
    ('dtd', 0.2, 711),
    ('svhn', 0.3, 711),
  ]
  assert (tmp_path / 'svhn' / 'checkpoints' / '2500').exists()
  assert trained.kept == [False, False, False, True]  # no path of what is deleted is printed
  # The location of the data does not matter. The fields that change the training do.
  configs['pets'].data_dir = '/elsewhere'
  assert lib.run_all(configs, tmp_path) == results
  configs['dtd'].lr = 0.003
  with pytest.raises(
    InputError,
    match='dtd/result.json has lr=0.01, not 0.003. Give another --workdir, or remove .*/dtd to',
  ):
    lib.run_all(configs, tmp_path)


@pytest.mark.parametrize(
  'text, reason',
  [
    ('', 'Expecting value: line 1 column 1 (char 0)'),
    ('{"accuracy": 1}', 'it is not the result of a run'),
    ('{"accuracy": 1, "config": {}}', 'it is not the result of a run'),
    ('[]', 'it is not the result of a run'),
  ],
)
def test_a_damaged_result_does_not_count(tmp_path, text, reason, messages):
  (tmp_path / 'pets').mkdir()
  path = tmp_path / 'pets' / 'result.json'
  path.write_text(text)
  assert lib.read_results({'pets': task_config('pets', {})}, tmp_path) == {}
  assert messages == [
    f'Cannot read {path}: {reason}. Training this run again, from its last checkpoint if it has '
    'one.'
  ]


def test_a_run_that_diverges_has_a_result(tmp_path, trained):
  config = task_config('pets', {'model': 'ViT-B/16', 'lr': 9.0})
  result = lib.run_all({'pets': config}, tmp_path)['pets']
  assert result['diverged'] == 'The loss is 1.5e+30 at step 7' and 'accuracy' not in result
  assert lib.read_results({'pets': config}, tmp_path) == {'pets': result}
  assert not (tmp_path / 'pets' / 'checkpoints').exists()


def test_results_of_earlier_versions(tmp_path, trained):
  """They have 0 and '' for "not set", and lack the fields that were added later."""
  config = task_config('pets', {'model': 'ViT-B/16'})
  fields = {f: OLD_SPELLINGS.get(f, v) if v is None else v for f, v in config.items()}
  del fields['registers'], fields['mixup']
  (tmp_path / 'pets').mkdir()
  result = {'accuracy': 0.5, 'examples': 711, 'config': fields, 'kept': False}
  (tmp_path / 'pets' / 'result.json').write_text(json.dumps(result))
  assert lib.run_all({'pets': config}, tmp_path)['pets']['accuracy'] == 0.5 and not trained
  config.registers = 4
  with pytest.raises(InputError, match='pets/result.json has registers=0, not 4. Give another'):
    lib.run_all({'pets': config}, tmp_path)


def test_losses_are_kept_for_the_judgment(tmp_path, monkeypatch):
  (tmp_path / 'pets').mkdir()
  metrics = {'eval/accuracy': 0.5, 'eval/examples': 10.0, 'train/loss': 4e6}
  train = lambda config, workdir, keep: {**metrics, 'train/first_loss': 3.6}
  monkeypatch.setattr(lib, 'train', train)
  config = task_config('pets', {'model': 'ViT-B/16'})
  result = lib.run_all({'pets': config}, tmp_path)['pets']
  assert (result['first_loss'], result['last_loss']) == (3.6, 4e6)


def test_a_recipe_that_has_changed_since(tmp_path, trained):
  """Fields that finished runs have recorded win, except for those that the user gives."""
  before = task_config('pets', {'model': 'ViT-B/16', 'warmup_steps': 100, 'mixup': 0.1})
  lib.run_all({'lr_0.1': before}, tmp_path)
  c = task_config('pets', {'model': 'ViT-B/16', 'lr': 0.5, 'mixup': 0.2, 'save_every': 7})
  notes = lib.keep_recorded(c, tmp_path, ['lr_0.3', 'lr_0.1'], {'lr', 'mixup'})
  assert notes == [
    'config.warmup_steps: keeping 100 from the run being resumed. The config file now says 500. '
    'Pass --config.warmup_steps=... to change it.'
  ]
  assert (c.warmup_steps, c.lr, c.mixup, c.save_every) == (100, 0.5, 0.2, 7)
  assert lib.keep_recorded(c, tmp_path, ['lr_0.3'], ()) == []


def test_the_averaged_parameters_count(tmp_path, monkeypatch):
  (tmp_path / 'pets').mkdir()  # train returns both
  metrics = {'eval/accuracy': 0.5, 'eval/average_accuracy': 0.6, 'eval/examples': 10.0}
  monkeypatch.setattr(lib, 'train', lambda config, workdir, keep: metrics)
  config = task_config('pets', {'model': 'ViT-B/16'})
  assert lib.run_all({'pets': config}, tmp_path)['pets']['accuracy'] == 0.6


def test_a_folder_that_has_moved_is_the_same_dataset(tmp_path, trained, monkeypatch):
  (tmp_path / 'photos' / 'train').mkdir(parents=True)
  monkeypatch.chdir(tmp_path)
  config = task_config('pets', {'model': 'ViT-B/16'})
  config.dataset = 'photos'
  results = lib.run_all({'lr_0.1': config}, tmp_path / 'w')
  assert results['lr_0.1']['config']['dataset'] == str(tmp_path / 'photos')
  config.dataset = str((tmp_path / 'photos').rename(tmp_path / 'moved'))
  assert lib.run_all({'lr_0.1': config}, tmp_path / 'w') == results and trained == ['photos']
  config.dataset = 'vtab/dtd'
  with pytest.raises(InputError, match="has dataset='.*/photos', not 'vtab/dtd'"):
    lib.run_all({'lr_0.1': config}, tmp_path / 'w')


def test_a_cut_run_of_another_config(tmp_path):
  config = task_config('pets', {'model': 'ViT-B/16'})
  (tmp_path / 'pets' / 'checkpoints' / '500').mkdir(parents=True)
  (tmp_path / 'pets' / 'config.json').write_text(json.dumps(dict(config.items())))
  assert lib.read_results({'pets': config}, tmp_path) == {}  # training would continue
  config.lr = 0.003
  with pytest.raises(InputError) as e:
    lib.read_results({'pets': config}, tmp_path)
  assert str(e.value) == (
    f'{tmp_path}/pets has lr=0.01, not 0.003. Give another --workdir, or remove {tmp_path}/pets '
    'to train it again.'
  )
