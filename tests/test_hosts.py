"""Two hosts, as two processes of four simulated devices each: real processes, real signals."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from sklearn import datasets

from vit_jax import hosts
from vit_jax.errors import InputError
from vit_jax.fingerprint import fingerprint
from vit_jax.pretrained.formats import read_arrays

ROOT = pathlib.Path(__file__).parent.parent
FIGURES = ('train/images_per_second', 'train/images_per_second_per_device',
           'train/seconds_waiting_for_data', 'train/productive_seconds', 'train/goodput')
STEPS, ROWS, IMAGES = 30, 16, 160
# Notes which record each training example is, and runs the command line.
PROGRAM = '''
import os, runpy
from vit_jax.data import pipeline
plan, file = pipeline._TrainPlan.record, open(os.environ['READS'], 'a')
def record(self, example):
  file.write(f'{example} {plan(self, example)}\\n')
  return plan(self, example)
pipeline._TrainPlan.record = record
runpy.run_module('vit_jax.main', run_name='__main__', alter_sys=True)
'''


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  """Handwritten digits as a folder; of each split, some are damaged."""
  folder = tmp_path_factory.mktemp('images')
  digits = datasets.load_digits()
  for i in range(IMAGES + 30):
    path = folder / ('train' if i < IMAGES else 'val') / str(digits.target[i]) / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), digits.images[i] * (255 / 16))
    if i in (20, 21, 22, IMAGES + 7):
      path.write_bytes(path.read_bytes()[:50])
  return folder


@pytest.fixture(scope='module')
def start(images, tmp_path_factory):
  """start(workdir, flags...): starts the processes of a job, which end with the tests."""
  started = []

  def start(workdir, *flags, devices=(4, 4), own=((), ()), slurm=False):
    port, logs = free_port(), tmp_path_factory.mktemp('logs')
    job = []
    for i, count in enumerate(devices):
      env = {**os.environ, 'READS': str(logs / f'reads{i}'), 'XLA_FLAGS':
             # Compiles fast; what is compiled need not be.
             f'--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={count}'}
      where = []
      if slurm:
        env |= dict(SLURM_JOB_ID='1', SLURM_STEP_NODELIST='localhost', SLURM_NTASKS='2',
                    SLURM_PROCID=str(i), SLURM_LOCALID=str(i), JAX_COORDINATOR_PORT=str(port))
      elif len(devices) > 1:
        where = [f'--coordinator_address=localhost:{port}', f'--num_processes={len(devices)}',
                 f'--process_id={i}']
      with open(logs / f'stderr{i}', 'w') as stderr:
        process = subprocess.Popen(
            [sys.executable, '-c', PROGRAM, *small(workdir, images), *where, *flags,
             *[flag.format(workdir=workdir) for flag in own[i]]],
            cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=stderr)
      process.log, process.reads = logs / f'stderr{i}', logs / f'reads{i}'
      job.append(process)
      started.append(process)
    return job
  yield start
  for process in started:
    process.kill()
    process.wait()


def free_port():
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


def small(workdir, images):
  return ('--config=configs/quickstart.py', f'--workdir={workdir}', f'--config.dataset={images}',
          '--config.num_layers=1', '--config.hidden_dim=32', '--config.mlp_dim=64',
          '--config.num_heads=2', f'--config.batch_size={ROWS}', f'--config.total_steps={STEPS}',
          '--config.warmup_steps=5', '--config.log_every=5', '--config.eval_every=20',
          '--config.save_every=10', '--config.max_bad_records=9', '--config.num_threads=1')


def end(job, codes, seconds=120):
  """Waits for the processes; returns their logs."""
  until = time.monotonic() + seconds
  found = [process.wait(until - time.monotonic()) for process in job]
  logs = [process.log.read_text() for process in job]
  assert found == codes, '\n\n'.join(logs)
  return logs


def lines(workdir):
  """The complete lines of a record that may be in the middle of being written."""
  path = workdir / 'metrics.jsonl'
  text = path.read_text() if path.exists() else ''
  return [{k: v for k, v in json.loads(line).items() if k not in FIGURES}
          for line in text.split('\n')[:-1]]


def wait_for_step(job, workdir, step):
  while not any(line['step'] >= step for line in lines(workdir)):
    assert all(p.poll() is None for p in job), [p.log.read_text() for p in job]
    time.sleep(.1)


def saved(workdir):
  return sorted(int(d.name) for d in (workdir / 'checkpoints').iterdir())


def fingerprints(workdir):
  """Of every array of the last checkpoint, its parameters as they are on disk."""
  meta = json.loads((workdir / 'checkpoints' / str(STEPS) / 'meta/metadata').read_text())
  params = {f'params/{k}': v for k, v in fingerprint(read_arrays(workdir)).items()}
  assert params.items() <= meta['fingerprint'].items()
  return meta['fingerprint']


def reads(process):
  """{training example: record} of the batches up to the last step."""
  found = dict(map(int, line.split()) for line in process.reads.read_text().splitlines())
  return {k: v for k, v in found.items() if k < STEPS * ROWS}


@pytest.fixture(scope='module')
def two(start, tmp_path_factory):
  """An uninterrupted run of two hosts: its workdir, logs, processes."""
  workdir = tmp_path_factory.mktemp('two')
  job = start(workdir, '--num_devices=8')
  return workdir, end(job, [0, 0]), job


@pytest.mark.slow
def test_two_hosts_equal_one(two, start, tmp_path):
  """2 x 4 devices: the records, losses and evaluations of 1 x 8."""
  workdir, (log, other_log), job = two
  alone = start(tmp_path, devices=(8,))
  end(alone, [0])
  record, expected = lines(workdir), lines(tmp_path)
  for line, other in zip(record, expected, strict=True):
    assert line.keys() == other.keys()
    np.testing.assert_allclose(list(line.values()), list(other.values()), rtol=1e-5)
  assert [line['eval/examples'] for line in record if 'eval/examples' in line] == [29, 29]
  assert record[-2]['train/bad_records'] == 3 and record[-2]['step'] == STEPS

  first, second = map(reads, job)
  assert {k % ROWS for k in first} == set(range(8))
  assert {k % ROWS for k in second} == set(range(8, 16))
  assert first | second == reads(alone[0]) and len(first | second) == STEPS * ROWS

  assert 'step 30/30' in log and log.rstrip().splitlines()[-1].endswith('/tensorboard')
  told = [line for line in other_log.splitlines() if 'Gloo' not in line]  # the others keep silent
  assert all('process 1: skipped record' in line for line in told), other_log
  skipped = log.count('skipped record') + len(told)
  assert skipped == 4 + 1  # 3 of train once, 1 of val in each evaluation
  assert len(list((workdir / 'tensorboard').iterdir())) == 1
  assert (workdir / 'log.txt').read_text() in log


@pytest.mark.slow
def test_sigterm_to_one_host_saves_on_both(two, start, tmp_path):
  """The same step, exit code 42; SLURM then starts the job again, and nothing is different."""
  job = start(tmp_path)
  wait_for_step(job, tmp_path, 5)
  job[1].send_signal(signal.SIGTERM)
  log, _ = end(job, [42, 42])
  step = saved(tmp_path)[-1]
  assert 5 <= step < STEPS and f'stopped at step {step} of {STEPS} and saved' in log
  log, _ = end(start(tmp_path, slurm=True), [0, 0])
  assert f'from step {step} of {STEPS}' in log and '8 device(s)' in log
  assert lines(tmp_path) == lines(two[0])
  assert fingerprints(tmp_path) == fingerprints(two[0])


@pytest.mark.slow
def test_a_killed_host_ends_the_other(two, start, tmp_path):
  """Within a minute, and a start of both goes on; here with the state cut over the hosts."""
  reached = 0
  for killed in (1, 0):
    job = start(tmp_path, '--config.parallel=mesh', '--config.mesh=(1,8)')
    wait_for_step(job, tmp_path, reached + 15)
    job[killed].kill()
    assert job[1 - killed].wait(60) not in (0, 42)
    log = job[0].log.read_text()
    assert f'from step {reached} of {STEPS}' in log if reached else 'starting in' in log
    reached = saved(tmp_path)[-1]
    assert reached >= 10
  record = lines(tmp_path)
  for line, other in zip(record, lines(two[0])):
    np.testing.assert_allclose(list(line.values()), list(other.values()), rtol=1e-5)


FAILURES = {
    'data of one host': (
        dict(own=((), ('--config.dataset=digits', '--config.data_dir=/dev/null'))),
        'process 1 failed: the data set digits cannot be written to /dev/null',
        'error: the data set digits cannot be written to /dev/null'),
    'another config': (
        dict(own=((), ('--config.lr=.5',))),
        'process 1 failed: config.lr is 0.5 on process 1 and 0.001 on process 0',
        'error: config.lr is 0.5 on process 1'),
    'another workdir': (
        dict(own=((), ('--workdir={workdir}/other',))),
        'error: process 1 does not see what process 0 writes to', 'give a directory that all'),
    'more processes': (
        dict(own=((), ('--num_processes=3',))),
        'process 1 failed: --num_processes=3, but process 0 was told 2', '--num_processes=3, but'),
    'fewer devices': (
        dict(devices=(4, 2)), 'error: process ', 'error: process '),
    'a process that never comes': (
        dict(devices=(4,), own=((f'--coordinator_address=localhost:{free_port()}',
                                 '--num_processes=2', '--process_id=0', '--start_timeout=5'),)),
        'error: not all processes of this job met at localhost:')}


@pytest.fixture(scope='module')
def failures(start, tmp_path_factory):
  """All of FAILURES, started at once: most of their time they wait."""
  workdir = tmp_path_factory.mktemp('failures')
  return {name: start(workdir / name, **about) for name, (about, *_) in FAILURES.items()}


@pytest.mark.slow
@pytest.mark.parametrize('name', FAILURES)
def test_one_failure_ends_all_with_one_sentence(failures, name):
  words = FAILURES[name][1:]
  logs = end(failures[name], [1] * len(words), seconds=60)
  for log, expected in zip(logs, words):
    assert expected in log.splitlines()[-1], log
    assert 'Traceback' not in log


@pytest.mark.parametrize('flags, words', [
    (('localhost:1', 2, 2), '--process_id=2 is not one of the --num_processes=2 that count from 0'),
    ((None, 2, None), '--process_id go together')])
def test_impossible_flags_are_found_at_once(flags, words):
  with pytest.raises(InputError, match=words):
    hosts.start(*flags)


def test_mpi_needs_mpi4py(monkeypatch):
  monkeypatch.setenv('OMPI_COMM_WORLD_SIZE', '4')
  monkeypatch.setattr(hosts.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(InputError, match='mpirun started 4 processes.*pip install mpi4py'):
    hosts._mpi_size()
  monkeypatch.delenv('OMPI_COMM_WORLD_SIZE')
  assert hosts._mpi_size() == 1


def test_alone_there_is_nobody_to_ask(tmp_path):
  assert hosts.gather({'a': 1}) == [{'a': 1}]
  hosts.check_same({'a': 1})
  hosts.check_shared(tmp_path / 'none')
