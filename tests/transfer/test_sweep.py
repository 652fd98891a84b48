"""The sweep over learning rates: its configs, its bookkeeping, and whole sweeps."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.helpers.jobs import free_port
from tests.helpers.paths import ROOT
from vit_jax.config.recipes import finetune
from vit_jax.errors import InputError
from vit_jax.pretrained.formats import read_arrays
from vit_jax.training.loop import train
from vit_jax.training.workdir import lock_workdir
from vit_jax.transfer import runs
from vit_jax.transfer import sweep as lib
from vit_jax.transfer.sweep import Splits

SPLITS = Splits('train[:90%]', 'train[90%:]', 'train', 'test')


def tiny(data_dir, **fields):
  """Return the config of 20 steps of a ViT with 4 patches and one block on digits."""
  c = finetune('ViT-Ti/4', 'digits')
  c.update(
    dict(
      data_dir=str(data_dir),
      image_size=8,
      hidden_dim=16,
      mlp_dim=32,
      num_heads=2,
      num_layers=1,
      batch_size=64,
      total_steps=20,
      warmup_steps=1,
      eval_every=0,
      save_every=10,
      log_every=5,
      dtype='float32',
      num_threads=1,
      optimizer='adam',
      clip_norm=None,
    )
    | fields
  )
  return c


def test_configs_differ_in_what_a_sweep_sets():
  c = tiny('/x', seed=5, init_from='x.npz')
  before = c.to_dict()
  tuning = lib.tuning_configs(c, (0.001, 3e-5), SPLITS)
  assert list(tuning) == ['lr_0.001', 'lr_3e-05']
  assert tuning['lr_3e-05'].to_dict() == before | dict(
    lr=3e-5, train_split='train[:90%]', eval_split='train[90%:]'
  )
  final = lib.final_configs(c, 0.01, 3, SPLITS)
  assert list(final) == ['seed_5', 'seed_6', 'seed_7']
  assert final['seed_6'].to_dict() == before | dict(
    lr=0.01, seed=6, train_split='train', eval_split='test'
  )
  assert c.to_dict() == before


def test_of_equals_the_lowest_learning_rate_is_best():
  assert lib.best({0.03: 0.8, 0.01: 0.9, 0.003: 0.9, 0.001: 0.7}) == 0.003


@pytest.mark.parametrize(
  'losses, diverged',
  [
    ((2.3, 4e6), 'The loss rose from 2.3 to 4e+06'),
    ((2.3, 2.6), 'The loss rose from 2.3 to 2.6'),
    ((2.3, 2.31), None),  # noise
    ((2.3, 0.5), None),
    ((0.02, 0.03), None),  # far better than guessing
    ((6.9, 2.4), None),  # the sum of the losses of 10 classes
    ((None, 4e6), None),  # of an earlier version
  ],
)
def test_a_loss_that_rises_has_diverged(losses, diverged):
  first, last = losses
  result = {'accuracy': 0.14, 'first_loss': first, 'last_loss': last}
  assert lib.judge(result, 10).get('diverged') == diverged


def test_a_diverged_rate_is_not_chosen_whatever_its_accuracy(messages):
  diverged = lib.judge({'accuracy': 0.9, 'first_loss': 2.3, 'last_loss': 4e6}, 10)
  assert lib._choose({0.01: {'accuracy': 0.5}, 1000.0: diverged}, 10) == 0.01
  assert lib._choose({0.03: {'accuracy': 0.5}, 0.01: {'accuracy': 0.5}}, 10) == 0.01
  assert not messages
  assert lib._choose({0.03: {'accuracy': 0.1}, 0.01: {'accuracy': 0.1}}, 10) == 0.01
  assert messages == [
    'No learning rate is better than chance on the dev split: with the best, 0.01, the accuracy is '
    '10.00%, and one of 10 classes is 10.00%. Train longer, or give others with --lrs.'
  ]
  with pytest.raises(InputError) as e:
    lib._choose({1000.0: diverged}, 10)
  assert str(e.value) == (
    'Every learning rate of 1000.0 diverged. With the lowest, 1000.0: The loss rose from 2.3 to '
    '4e+06. Give lower ones with --lrs, a longer warmup, or clip_norm=1.'
  )


def test_seeds_are_checked_before_anything_is_trained(digits_dir, tmp_path):
  c = tiny(digits_dir, seed=2**32 - 2)
  with pytest.raises(InputError) as e:
    lib.sweep(c, tmp_path, lrs=(0.1,), splits=SPLITS, seeds=3)
  assert str(e.value) == 'config.seed must be less than 2**32 = 4294967296, got 4294967296.'
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'text, words',
  [
    ('', ' is not a list of learning rates'),
    ('.1,x', ' is not a list of learning rates'),
    ('.1,,.2', ' is not a list of learning rates'),
    ('.1,0', ': 0.0 is not positive and finite'),
    ('-1', ': -1.0 is not positive and finite'),
    ('nan', ': nan is not positive and finite'),
    ('inf', ': inf is not positive and finite'),
    ('.1,0.10', ' contains 0.1 twice'),
  ],
)
def test_bad_learning_rates(text, words):
  with pytest.raises(InputError) as e:
    lib.parse_lrs(text)
  assert str(e.value) == f'--lrs={text}{words}. They look like --lrs=.001,.003,.01.'
  assert lib.parse_lrs('.001, 3e-5') == (0.001, 3e-5)


def test_table():
  results = {
    'splits': SPLITS._asdict(),
    'best_lr': 0.01,
    'mean': 0.98,
    'std': 0.001,
    'lrs': [
      dict(lr=0.01, accuracy=0.97123, examples=1000),
      dict(lr=0.03, diverged='the loss is nan at step 20'),
    ],
    'seeds': [
      dict(seed=0, accuracy=0.979, examples=10_000),
      dict(seed=1, accuracy=0.981, examples=10_000),
    ],
    'checkpoint': 'w/seed_1',
  }
  assert (
    lib.table(results)
    == """\
learning rate   dev accuracy   on train[90%:] (1,000 images), trained on train[:90%]
0.01                   97.12   best
0.03                diverged   the loss is nan at step 20

seed                accuracy   on test (10,000 images), trained on train with learning rate 0.01
0                      97.90
1                      98.10
mean                   98.00
std                     0.10   of the sample (n - 1)

best checkpoint: w/seed_1"""
  )
  assert 'std' not in lib.table(results | {'std': None})
  few = lib.table(results | {'lrs': [dict(lr=0.01, accuracy=0.9, examples=49)]})
  assert (
    '\nnote: The dev split train[90%:] is small: it has 49 images, so one of them is 2.0% of the '
    'accuracy. Differences of a few images are chance. A larger --dev_split tells more.\n'
  ) in few
  assert 'checkpoint' not in lib.table(results | {'checkpoint': None})


LRS = (1e-4, 0.02, 1e30)


@pytest.fixture(scope='module')
def swept(digits_dir, tmp_path_factory):
  """Return the workdir and the results of a sweep with a learning rate that diverges."""
  workdir = tmp_path_factory.mktemp('sweep')
  return workdir, lib.sweep(tiny(digits_dir), workdir, lrs=LRS, splits=SPLITS, seeds=2)


def test_the_protocol(swept, digits_dir, tmp_path):
  workdir, results = swept
  low, high, diverged = results['lrs']
  assert (low['lr'], high['lr'], diverged['lr']) == LRS
  assert low['accuracy'] < 0.4 < high['accuracy'] and results['best_lr'] == 0.02
  assert {low['examples'], high['examples']} == {144}
  assert diverged['diverged'].lower().startswith('the ') and 'accuracy' not in diverged
  assert [(x['seed'], x['examples']) for x in results['seeds']] == [(0, 360), (1, 360)]
  accuracies = [x['accuracy'] for x in results['seeds']]
  assert accuracies[0] != accuracies[1]
  assert results['mean'] == pytest.approx(np.mean(accuracies))
  assert results['std'] == pytest.approx(np.std(accuracies, ddof=1))
  assert json.loads((workdir / 'results.json').read_text()) == results
  best = f'seed_{int(np.argmax(accuracies))}'
  assert results['checkpoint'] == str(workdir / best)
  # Each run equals a plain training run with its config.
  alone = tmp_path / 'alone'
  c = tiny(digits_dir, lr=0.02, seed=1, train_split='train', eval_split='test')
  assert train(c, alone)['eval/accuracy'] == accuracies[1]
  one, other = read_arrays(alone), read_arrays(workdir / 'seed_1')
  assert one.keys() == other.keys()
  for name in one:
    np.testing.assert_array_equal(one[name], other[name])
  tuned = json.loads((workdir / 'lr_0.02' / 'result.json').read_text())
  assert tuned['config'] == json.loads((workdir / 'lr_0.02' / 'config.json').read_text())
  assert (
    tuned['config']['train_split'],
    tuned['config']['eval_split'],
    tuned['config']['seed'],
    tuned['accuracy'],
  ) == ('train[:90%]', 'train[90%:]', 0, high['accuracy'])
  assert sorted(d.parent.name for d in workdir.glob('*/checkpoints')) == ['seed_0', 'seed_1']


def times(workdir):
  return {path: path.stat().st_mtime_ns for path in workdir.glob('*/*.json*')}


@pytest.fixture
def again(swept, tmp_path):
  """Return a copy of the sweep's workdir, for tests that change it."""
  shutil.copytree(swept[0], tmp_path / 'again')
  return tmp_path / 'again', swept[1]


def call(workdir, digits_dir, lrs=LRS, **fields):
  return lib.sweep(tiny(digits_dir, **fields), workdir, lrs=lrs, splits=SPLITS, seeds=2)


def without_paths(results):
  return {k: v for k, v in results.items() if k != 'checkpoint'}


def test_what_is_done_is_not_done_again(again, digits_dir):
  workdir, results = again
  before = times(workdir)
  (workdir / 'lr_0.02' / 'checkpoints' / '20').mkdir(
    parents=True
  )  # the sweep was killed before it removed this checkpoint
  assert without_paths(call(workdir, digits_dir, log_every=2)) == without_paths(results)
  assert times(workdir) == before
  assert sorted(d.parent.name for d in workdir.glob('*/checkpoints')) == ['seed_0', 'seed_1']


def test_a_run_that_was_cut_goes_on(again, digits_dir):
  """After a kill -9, there is no result, and only the first of two checkpoints."""
  workdir, results = again
  (workdir / 'seed_1' / 'result.json').unlink()
  shutil.rmtree(workdir / 'seed_1' / 'checkpoints' / '20')
  before = {p: t for p, t in times(workdir).items() if p.parent.name != 'seed_1'}
  assert without_paths(call(workdir, digits_dir)) == without_paths(results)
  assert 'from step 10 of 20' in (workdir / 'seed_1' / 'log.txt').read_text()
  assert before.items() <= times(workdir).items()


def test_results_and_runs_of_another_config(again, digits_dir):
  workdir, _ = again
  with pytest.raises(
    InputError,
    match='lr_0.0001/result.json has batch_size=64, not 32. Give another --workdir, or remove '
    '.*/lr_0.0001 to train it again.',
  ):
    call(workdir, digits_dir, batch_size=32)
  with pytest.raises(InputError, match='seed_0/result.json has lr=0.02, not 0.0001. Give'):
    call(workdir, digits_dir, (1e-4,))
  for seed in ('seed_0', 'seed_1'):  # the run that was cut has another learning rate
    (workdir / seed / 'result.json').unlink()
  with pytest.raises(InputError, match='seed_0 has lr=0.02, not 0.0001. Give another'):
    call(workdir, digits_dir, (1e-4,))
  shutil.rmtree(workdir / 'seed_0' / 'checkpoints')  # no run would continue from it
  shutil.rmtree(workdir / 'seed_1')
  configs = lib.final_configs(tiny(digits_dir), 0.01, 2, SPLITS)
  assert runs.read_results(configs, workdir) == {}


def test_when_all_learning_rates_diverge(again, digits_dir):
  workdir, _ = again
  with pytest.raises(
    InputError,
    match='^Every learning rate of 1e[+]30 diverged. With the lowest, 1e[+]30: [Tt]he .* step .*'
    '[.] Give lower ones with --lrs, a longer warmup, or clip_norm=1[.]$',
  ):
    call(workdir, digits_dir, (1e30,))


def test_when_a_final_run_diverges(again, digits_dir):
  workdir, _ = again
  shutil.rmtree(workdir / 'seed_0')
  shutil.rmtree(workdir / 'seed_1')
  path = workdir / 'lr_1e+30' / 'result.json'  # as if it had not diverged there
  path.write_text(path.read_text().replace('"diverged"', '"accuracy": 1, "examples": 1, "was"'))
  with pytest.raises(
    InputError,
    match='^The final run .*/seed_0 with lr=1e[+]30 diverged: [Tt]he .* step .*[.] '
    'Give --lrs without 1e[+]30 and another --workdir[.]$',
  ):
    call(workdir, digits_dir)


def test_a_seed_that_diverges_is_left_out_of_the_mean(again, digits_dir, capsys):
  workdir, results = again
  path = workdir / 'seed_0' / 'result.json'
  result = json.loads(path.read_text())
  path.write_text(json.dumps(result | {'accuracy': 0.99, 'first_loss': 2.3, 'last_loss': 4e6}))
  found = call(workdir, digits_dir)
  other = results['seeds'][1]['accuracy']
  assert (found['mean'], found['std'], found['best_seed']) == (other, None, 1)
  assert found['seeds'][0]['diverged'] == 'The loss rose from 2.3 to 4e+06'
  assert (
    'Seed 0 diverged: The loss rose from 2.3 to 4e+06. It is left out' in capsys.readouterr().err
  )
  lines = lib.table(found).splitlines()
  assert '0                   diverged   The loss rose from 2.3 to 4e+06' in lines
  assert f'mean{100 * other:24.2f}   of 1 of 2 seeds, because the others diverged' in lines


def test_a_second_sweep_in_the_workdir_is_refused(again, digits_dir):
  workdir, results = again
  with lock_workdir(workdir), pytest.raises(InputError) as e:
    call(workdir, digits_dir)
  assert str(e.value).startswith(f'The workdir {workdir} is in use by process {os.getpid()} on ')
  assert without_paths(call(workdir, digits_dir)) == without_paths(results)
  assert not (workdir / 'lock.json').exists()


def command_line(digits_dir, workdir, *flags):
  c = tiny(digits_dir)
  default = finetune('ViT-Ti/4', 'digits')
  return [
    '--config=configs/finetune.py:ViT-Ti/4,digits',
    f'--workdir={workdir}',
    *(f'--config.{k}={0 if v is None else v}' for k, v in c.items() if v != default[k]),
    *flags,
  ]


def test_the_command_line(swept, digits_dir, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(lib.hosts, 'start', lambda *_: None)  # conftest has initialized JAX
  monkeypatch.chdir(ROOT)
  workdir = tmp_path / 'w'
  assert lib.main(command_line(digits_dir, workdir, '--lrs=.02', '--seeds=1', '--discard')) == 0
  out, err = capsys.readouterr()
  row = swept[1]['lrs'][1]
  assert ['0.02', f'{100 * row["accuracy"]:.2f}', 'best'] in [x.split() for x in out.splitlines()]
  assert ['0', f'{100 * swept[1]["seeds"][0]["accuracy"]:.2f}'] in [
    x.split() for x in out.splitlines()
  ]
  assert 'checkpoint' not in out and not list(workdir.glob('*/checkpoints'))
  assert 'Checkpoint:' not in err and 'checkpoints' not in err  # they are deleted
  assert 'The dev split train[90%:] is small: it has 144 images' in err
  assert 'run 1 of 2: lr=0.02 on train[:90%], dev train[90%:]\n' in err
  assert 'run 2 of 2: seed 0, lr=0.02 on train, test test\n' in err
  assert json.loads((workdir / 'results.json').read_text())['std'] is None


@pytest.mark.parametrize(
  'flags, words',
  [
    (['--lrs=.1,x'], 'error: --lrs=.1,x is not a list of learning rates. They'),
    (
      ['--config.lr=.5'],
      'error: A sweep chooses --config.lr itself. Give the learning rates to try, as --lrs=0.5.',
    ),
    (['--seeds=0'], 'error: flag --seeds=0'),
    (['--sedes=2'], "'sedes'"),
    (['--dev_split=validation'], "error: Unknown split 'validation'. Available: train, test."),
    (['--workdir=nowhere://x'], 'error: --workdir=nowhere://x cannot be written'),
  ],
)
def test_errors_are_one_sentence(digits_dir, tmp_path, capsys, monkeypatch, flags, words):
  monkeypatch.setattr(lib.hosts, 'start', lambda *_: None)
  monkeypatch.chdir(ROOT)
  assert lib.main(command_line(digits_dir, tmp_path / 'w', *flags)) == 1
  err = capsys.readouterr().err.splitlines()
  assert words in err[-1] and len(err) == 1


def test_flags_are_checked_beside_what_a_sweep_has_recorded(
  digits_dir, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(lib.hosts, 'start', lambda *_: None)
  monkeypatch.setattr(lib, 'sweep', lambda c, *_, **__: configs.append(c))
  monkeypatch.setattr(lib, 'table', str)
  monkeypatch.chdir(ROOT)
  configs, run = [], tmp_path / 'w' / 'lr_0.1'
  run.mkdir(parents=True)
  flags = [*command_line(digits_dir, tmp_path / 'w'), '--lrs=.1', '--config.momentum=.8']
  assert lib.main(flags) == 1
  assert 'error: config.momentum=0.8 has no effect with config.opt' in capsys.readouterr().err
  fields = tiny(digits_dir, lr=0.1, momentum=0.8).to_dict()
  (run / 'result.json').write_text(json.dumps({'config': fields, 'diverged': 'x'}))
  assert lib.main(flags) == 0
  assert 'config.momentum=0.8 has no effect with config.opt' in capsys.readouterr().err
  result = {'config': fields | {'optimizer': 'sgd', 'momentum': 0.9}, 'diverged': 'x'}
  (run / 'result.json').write_text(json.dumps(result))
  flags.remove('--config.optimizer=adam')
  assert lib.main(flags) == 0 and 'has no effect' not in capsys.readouterr().err
  assert [(c.optimizer, c.momentum) for c in configs] == [('adam', 0.8), ('sgd', 0.8)]


def test_help_names_the_flags(capsys):
  assert lib.main(['--help']) == 0
  out = capsys.readouterr().out
  for words in (
    '--lrs',
    '--seeds',
    '--dev_split',
    '--discard',
    '--num_processes',
    'Exit code',
    'vit_jax/config/fields.py',
    'section 4.1',
  ):
    assert words in out


def start(workdir, digits_dir, *flags):
  command = [sys.executable, '-m', 'vit_jax.transfer.sweep']
  path = workdir.with_suffix('.log')
  with path.open('w') as log:
    process = subprocess.Popen(
      command + command_line(digits_dir, workdir, *flags),
      cwd=ROOT,
      env={**os.environ, 'XLA_FLAGS': ''},
      stdout=subprocess.PIPE,
      stderr=log,
      text=True,
    )
  process.log = path.read_text
  return process


def wait_for(process, words):
  until = time.monotonic() + 120
  while words not in process.log():
    assert process.poll() is None and time.monotonic() < until, process.log()
    time.sleep(0.01)


@pytest.mark.slow
def test_stopped_again_and_again(digits_dir, tmp_path):
  """Stop in a run, before the first step of the next one, and by kill -9. Then finish."""
  flags = ('--config.total_steps=1500', '--config.save_every=100', '--lrs=.01', '--seeds=1')
  workdir, result = tmp_path / 'w', tmp_path / 'w' / 'lr_0.01' / 'result.json'
  process = start(workdir, digits_dir, *flags)
  wait_for(process, ' step 100/')
  process.send_signal(signal.SIGTERM)
  assert process.wait(120) == 42, process.log()
  assert 'run 1 of 2' in process.log() and not result.exists()
  process = start(workdir, digits_dir, *flags)
  wait_for(process, 'run 2 of 2')
  assert 'Resuming from step' in process.log()
  process.send_signal(signal.SIGTERM)
  assert process.wait(120) == 42, process.log()
  # JAX's runtime checks for signals once a second, and a step takes milliseconds.
  assert int(re.search(r'Stopped at step (\d+) of 1500', process.log())[1]) < 300
  first = result.stat().st_mtime_ns
  process = start(workdir, digits_dir, *flags)
  wait_for(process, ' step 300/')
  process.kill()
  process.wait()
  process = start(workdir, digits_dir, *flags)
  out = process.communicate(timeout=200)[0]
  assert process.returncode == 0, process.log()
  assert 'run 1 of 2: lr=0.01 on train[:90%], dev train[90%:]: already done' in process.log()
  assert re.search(rf'Resuming from step \d+ of 1,500 \({workdir}/seed_0\)', process.log())
  assert result.stat().st_mtime_ns == first
  results = json.loads((workdir / 'results.json').read_text())
  assert out == lib.table(results) + '\n' and results['mean'] > 0.8


@pytest.mark.slow
def test_two_processes(digits_dir, tmp_path, swept):
  """Two processes give the results of one. Only process 0 writes files and prints."""
  workdir = tmp_path / 'w'
  for words in ('run 3 of 3: seed 0, lr=0.02 on train, test test\n', 'test test: already done'):
    port, job = free_port(), []
    for i in range(2):
      (tmp_path / f'{i}').mkdir(exist_ok=True)
      job.append(
        start(
          tmp_path / f'{i}' / 'x',
          digits_dir,
          f'--workdir={workdir}',
          '--num_devices=2',
          f'--coordinator_address=localhost:{port}',
          '--num_processes=2',
          f'--process_id={i}',
          '--lrs=.02,1e30',
          '--seeds=1',
        )
      )
    outs = [process.communicate(timeout=200)[0] for process in job]
    assert [p.returncode for p in job] == [0, 0], job[0].log() + job[1].log()
    results = json.loads((workdir / 'results.json').read_text())
    assert outs[0].endswith(lib.table(results) + '\n') and 'accuracy' not in outs[1]
    assert words in job[0].log() and 'run 3' not in job[1].log()
  for mine, alone in zip(
    results['lrs'][:1] + results['seeds'], swept[1]['lrs'][1:2] + swept[1]['seeds'], strict=False
  ):
    assert abs(mine['accuracy'] - alone['accuracy']) <= 2 / mine['examples']
  assert results['lrs'][1]['diverged'] == swept[1]['lrs'][2]['diverged']
