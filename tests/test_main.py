"""The command line, as a user and a scheduler meet it: real processes, real signals."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import cv2
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from sklearn import datasets

from tests.helpers.earlier_dropout import earlier_mask
from tests.helpers.jobs import FIGURES
from tests.helpers.paths import FILES, ROOT
from vit_jax import main
from vit_jax.models import dropout
from vit_jax.training import command_line


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp('tfds')


def command(*flags):
  return [sys.executable, '-m', 'vit_jax.main', *map(str, flags)]


def run(*flags, **variables):
  env = {**os.environ, 'XLA_FLAGS': '', **variables}  # one device
  return subprocess.run(
    command(*flags), cwd=ROOT, env=env, capture_output=True, text=True, timeout=600
  )


STEPS = 1000  # enough for a fast machine to notice a signal, which takes up to a second


def small(workdir, data_dir, *flags):
  """Return the flags of a run of some seconds, with dropout and augmentation."""
  return (
    '--config=configs/quickstart.py',
    f'--workdir={workdir}',
    f'--config.data_dir={data_dir}',
    '--config.num_layers=1',
    '--config.batch_size=8',
    f'--config.total_steps={STEPS}',
    '--config.save_every=50',
    '--config.log_every=5',
    '--config.eval_every=400',
    '--config.eval_split=test[:20]',
    *flags,
  )


def lines(workdir):
  """Return the complete lines of metrics.jsonl, to which a run may be writing."""
  path = workdir / 'metrics.jsonl'
  text = path.read_text() if path.exists() else ''
  return [json.loads(line) for line in text.split('\n')[:-1]]


def checkpoints(workdir):
  """Return (finished steps, unfinished directories)."""
  names = [d.name for d in (workdir / 'checkpoints').glob('*')]
  return sorted(int(n) for n in names if n.isdigit()), [n for n in names if not n.isdigit()]


def outcome(workdir):
  """Return what must be equal: every array of the last checkpoint, every metric but the speeds."""
  newest = workdir / 'checkpoints' / str(STEPS)
  state = ocp.PyTreeCheckpointer().restore((newest / 'state').absolute())
  record = [{k: v for k, v in line.items() if k not in FIGURES} for line in lines(workdir)]
  return state, record


def assert_same(a, b):
  for x, y in zip(jax.tree.leaves(a[0]), jax.tree.leaves(b[0]), strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)
  assert a[1] == b[1]


@pytest.fixture(scope='session')
def uninterrupted(tmp_path_factory, data_dir):
  workdir = tmp_path_factory.mktemp('whole')
  done = run(*small(workdir, data_dir))
  assert done.returncode == 0, done.stderr
  assert [line['step'] for line in lines(workdir) if 'eval/accuracy' in line] == [400, 800, 1000]
  return outcome(workdir)


def start(*flags):
  return subprocess.Popen(
    command(*flags),
    cwd=ROOT,
    env={**os.environ, 'XLA_FLAGS': ''},
    stderr=subprocess.PIPE,
    text=True,
  )


def wait_until(process, true):
  while not true():
    assert process.poll() is None, process.communicate()[1]
    time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize('sig', [signal.SIGTERM, signal.SIGINT])
def test_polite_stops_save_at_once_and_resume_exactly(tmp_path, data_dir, uninterrupted, sig):
  """SIGTERM or Ctrl-C in a run without other saves, and again after a restart with saves."""
  stopped_at = []
  for every in (0, 10):
    flags = small(tmp_path, data_dir, f'--config.save_every={every}')
    process = start(*flags)
    done = len(lines(tmp_path))
    wait_until(process, lambda: len(lines(tmp_path)) > done + 5)
    process.send_signal(sig)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 42, log
    assert 'and saved. Run the same command again to continue.' in log and 'Traceback' not in log
    assert 'SIGTERM caught' not in log and 'Gloo' not in log  # lines that JAX used to print
    steps, unfinished = checkpoints(tmp_path)
    assert not unfinished
    stopped_at.append(steps[-1])
    assert every or len(steps) == 1
  assert 5 <= stopped_at[0] < stopped_at[1] < STEPS
  again = run(*flags)
  assert again.returncode == 0, again.stderr
  assert f'from step {stopped_at[1]} of {STEPS:,} ' in again.stderr
  assert_same(outcome(tmp_path), uninterrupted)


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_one_interval_at_most(tmp_path, data_dir, uninterrupted):
  """The run is killed during a save, at a random moment, and during a save again."""
  flags = small(tmp_path, data_dir)
  reached, cut_saves, rng = 0, 0, random.Random(time.time_ns())
  for moment in ('save', 'random', 'save'):
    process = start(*flags)
    before = len(lines(tmp_path))
    if moment == 'save':
      wait_until(process, lambda: checkpoints(tmp_path)[1] and len(lines(tmp_path)) > before)
    else:
      wait_until(process, lambda: lines(tmp_path) and lines(tmp_path)[-1]['step'] > reached + 20)
      time.sleep(rng.uniform(0, 0.5))
    process.kill()
    process.communicate()
    steps, unfinished = checkpoints(tmp_path)
    cut_saves += bool(unfinished)
    at = lines(tmp_path)[-1]['step']
    reached = max(steps, default=0)
    assert at - reached <= 2 * 50  # the interval, and the one whose save was being written
  assert cut_saves
  last = run(*flags)
  assert last.returncode == 0, last.stderr
  assert not checkpoints(tmp_path)[1]
  assert_same(outcome(tmp_path), uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize('data', ['digits', 'folder'])
def test_the_papers_config_runs_on_real_input(tmp_path, data_dir, data):
  """configs/vit_b16.py trains three steps, on a folder with two blocks, and evaluates 8 images."""
  if data == 'folder':
    dataset, split, depth, size = digits_folder(tmp_path / 'photos'), 'val[:8]', 2, '15,518,218'
  else:
    dataset, split, depth, size = 'digits', 'test[:8]', 0, '86,396,938'
  workdir = tmp_path / 'run'
  flags = (
    '--config=configs/vit_b16.py',
    f'--config.dataset={dataset}',
    '--config.batch_size=8',
    '--config.total_steps=3',
    f'--config.eval_split={split}',
    f'--config.data_dir={data_dir}',
    f'--workdir={workdir}',
    f'--config.num_layers={depth}',
  )
  done = run(*flags)
  assert done.returncode == 0, done.stderr
  record = lines(workdir)
  assert record[-1]['step'] == 3 and record[-1]['eval/examples'] == 8
  assert abs(record[0]['train/loss'] - np.log(10)) < 0.05  # a zero head and hardly any warmup
  assert f'ViT-B/16, {size} parameters, 224 px, bfloat16' in done.stderr
  again = run(*flags)
  assert again.returncode == 0 and 'This run is already finished' in again.stderr


@pytest.mark.slow
def test_compiled_programs_are_kept_for_the_next_run(tmp_path, data_dir):
  """They are in the user's cache or in config.compile_cache, and an equal run reads them."""
  flags = [*small(tmp_path / 'a', data_dir), '--config.total_steps=2', '--config.eval_split=none']
  where = dict(JAX_COMPILATION_CACHE_DIR='', XDG_CACHE_HOME=str(tmp_path / 'cache'))
  programs = lambda folder: sorted(path.name for path in folder.glob('*-cache'))
  assert run(*flags, **where).returncode == 0
  kept = programs(tmp_path / 'cache/vit_jax')
  assert kept
  assert run(*flags, f'--workdir={tmp_path / "b"}', **where).returncode == 0
  assert programs(tmp_path / 'cache/vit_jax') == kept
  assert (
    run(
      *flags,
      f'--workdir={tmp_path / "c"}',
      '--config.compile_cache=none',
      **where | dict(XDG_CACHE_HOME=str(tmp_path / 'none')),
    ).returncode
    == 0
  )
  assert not (tmp_path / 'none').exists()
  assert (
    run(
      *flags, f'--workdir={tmp_path / "d"}', f'--config.compile_cache={tmp_path / "mine"}', **where
    ).returncode
    == 0
  )
  assert len(programs(tmp_path / 'mine')) == len(
    kept
  )  # equal in number only, because the names depend on the directory


def digits_folder(directory):
  """Write the first 100 of scikit-learn's digits as {train,val}/<digit>/<n>.jpg."""
  digits = datasets.load_digits()
  for i in range(100):
    path = directory / ('train' if i < 80 else 'val') / str(digits.target[i]) / f'{i}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.resize(digits.images[i] * (255 / 16), (80, 64)))
  return directory


QUICK = '--config=configs/quickstart.py'


@pytest.mark.parametrize(
  'flags, words',
  [
    ([], 'error: No config. Give one with --config=FILE'),
    (
      ['--config=configs/none.py'],
      'error: Config file configs/none.py does not exist. Check the path.',
    ),
    (
      ['--config=configs/vit_b16.py:laion'],
      "error: Unknown pretraining data 'laion'. Available: imagenet2012, imagenet21k, jft.",
    ),
    (
      [QUICK, '--config.batchsize=3'],
      "error: Unknown config field 'batchsize'. Did you mean 'batch_size'?",
    ),
    (
      [QUICK, '--config.mesh=2,4'],
      "error: config.mesh=(2, 4) has no effect with config.parallel='pmap'. Leave it out, or set "
      '--config.parallel=mesh.',
    ),
    ([QUICK, '--config.batch_size=many'], '--config.batch_size=many: invalid literal for int()'),
    ([QUICK, '--confg.lr=1'], "Unknown command line flag 'confg.lr'"),
    (
      [QUICK, 'batch_size=3'],
      "error: Unknown argument 'batch_size=3'. Flags look like --config.batch_size=256.",
    ),
    (
      [QUICK, '--num_devices=4'],
      '--num_devices is 4, but this job has 1 device(s) in 1 process(es). ',
    ),
    (
      [QUICK, '--config.dataset=cifar10', '--config.data_dir=nowhere'],
      'python -m vit_jax.tools.prepare cifar10 --data_dir=nowhere',
    ),
    ([QUICK, '--workdir=/dev/null/x'], 'Cannot write to the workdir /dev/null/x'),
    (
      [QUICK, '--config.loss=hinge'],
      "error: Unknown config.loss 'hinge'. Available: softmax, sigmoid.",
    ),
  ],
)
def test_errors_are_one_last_sentence(tmp_path, flags, words):
  failed = run(f'--workdir={tmp_path}', *flags)
  assert failed.returncode == 1
  assert words in failed.stderr.splitlines()[-1]
  assert 'Traceback' not in failed.stderr


@pytest.mark.slow
def test_a_failing_disk_is_the_last_word(tmp_path, data_dir):
  """No file may grow past 1 MB, so that writing a checkpoint fails as on a full disk."""
  limited = ['sh', '-c', 'ulimit -f 1000 && exec "$0" "$@"']
  failed = subprocess.run(
    limited + command(*small(tmp_path, data_dir, '--config.num_layers=2')),
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert failed.returncode == 1
  last = failed.stderr.splitlines()[-1]
  assert last.startswith('error: Cannot write a checkpoint to'), failed.stderr
  assert 'File too large' in last, failed.stderr
  assert 'Nothing was saved. Correct that' in last


def test_help_names_the_flags():
  shown = run('--help')
  assert shown.returncode == 0
  for words in ('--config', '--workdir', '--num_devices', 'vit_jax/config/fields.py', 'Exit code'):
    assert words in shown.stdout


def test_a_resumed_run_is_the_run_it_was(tmp_path, digits_dir, capsys, monkeypatch):
  """A run of an earlier version resumes without its flags, which only config.json has.

  Only the masks of dropout are no longer those that the earlier version drew.
  """
  monkeypatch.setattr(dropout, 'dropout_mask', earlier_mask)
  monkeypatch.setattr(command_line.hosts, 'start', lambda *_: None)  # conftest has initialized JAX
  monkeypatch.chdir(ROOT)
  workdir = shutil.copytree(FILES / 'earlier_run', tmp_path / 'run')
  flags = [QUICK, f'--workdir={workdir}', f'--config.data_dir={digits_dir}', '--config.seed=0']
  assert main.main(['main', *flags, '--config.eval_every=4', '--config.log_every=1']) == 0
  err = capsys.readouterr().err
  assert (
    'config.batch_size: keeping 16 from the run being resumed. The config file now says 32. '
    'Pass --config.batch_size=... to change it.\n'
  ) in err
  assert 'config.total_steps: keeping 8 from' in err and 'config.seed' not in err
  losses = lambda lines: [x['train/loss'] for x in lines if 'train/loss' in x and x['step'] > 4]
  expected = losses(json.loads(line) for line in (workdir / 'uninterrupted.jsonl').open())
  assert losses(lines(workdir)) == pytest.approx(expected, rel=1e-5) and len(expected) == 4


def test_flags_are_checked_beside_what_the_run_has_recorded(
  tmp_path, digits_dir, capsys, monkeypatch
):
  """The deciding field may be recorded only, and a field without effect from the start stays so."""
  monkeypatch.setattr(command_line.hosts, 'start', lambda *_: None)  # conftest has initialized JAX
  monkeypatch.setattr(main, 'train', lambda config, *_, **__: configs.append(config))
  monkeypatch.chdir(ROOT)
  workdir, configs = shutil.copytree(FILES / 'earlier_run', tmp_path / 'run'), []
  path = workdir / 'config.json'
  fields = json.loads(path.read_text())
  flags = ['main', QUICK, f'--workdir={workdir}', '--config.momentum=.8']
  path.write_text(json.dumps(fields | {'optimizer': 'sgd'}))
  assert main.main(flags) == 0
  assert (configs[0].optimizer, configs[0].momentum) == ('sgd', 0.8)
  path.write_text(json.dumps(fields))
  assert main.main(flags) == 1
  assert capsys.readouterr().err.splitlines()[-1] == (
    "error: config.momentum=0.8 has no effect with config.optimizer='adam'. Leave it out, or set "
    '--config.optimizer=sgd.'
  )
  path.write_text(json.dumps(fields | {'momentum': 0.8, 'num_epochs': 10.0, 'total_steps': 9}))
  assert main.main([*flags, '--config.num_epochs=10', '--config.total_steps=9']) == 0
  assert configs[1].total_steps == 9
  err = capsys.readouterr().err
  assert "config.momentum=0.8 has no effect with config.optimizer='adam'. The run being" in err
  assert 'config.num_epochs=10 and config.total_steps=9 both set the length of the run. The' in err
