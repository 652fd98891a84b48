"""Jobs of one or several processes, each with simulated devices, that train something small."""

import json
import os
import socket
import subprocess
import sys
import time

import cv2
import pytest
from sklearn import datasets

from tests.helpers.paths import ROOT
from vit_jax.errors import Interrupted
from vit_jax.pretrained.fingerprint import fingerprint
from vit_jax.pretrained.formats import read_arrays
from vit_jax.training import loop as train_lib

FIGURES = (
  'train/images_per_second',
  'train/images_per_second_per_device',
  'train/seconds_waiting_for_data',
  'train/productive_seconds',
  'train/goodput',
)
STEPS, ROWS, IMAGES = 30, 16, 160
# Runs the command line, and records which image each training example is.
PROGRAM = """
import os, runpy
from vit_jax.data.order import TrainOrder
index, file = TrainOrder.index, open(os.environ['READS'], 'a')
def noted_index(self, g):
  file.write(f'{g} {index(self, g)}\\n')
  return index(self, g)
TrainOrder.index = noted_index
runpy.run_module('vit_jax.main', run_name='__main__', alter_sys=True)
"""


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  """Return a folder of handwritten digits with some damaged images in each split."""
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
  """Return start(workdir, flags...), which starts the processes of a job.

  They are killed at the end of the tests. `devices` has the number of devices of each process,
  `own` additional flags for each process, and `within` a command that runs each process.
  """
  started = []

  def start(workdir, *flags, devices=(4, 4), own=((), ()), slurm=False, within=()):
    port, logs = free_port(), tmp_path_factory.mktemp('logs')
    job = []
    for i, count in enumerate(devices):
      env = {
        **os.environ,
        'READS': str(logs / f'reads{i}'),
        'XLA_FLAGS':
        # Compilation must be fast, not the compiled program.
        f'--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={count}',
      }
      where = []
      if slurm:
        env |= dict(
          SLURM_JOB_ID='1',
          SLURM_STEP_NODELIST='localhost',
          SLURM_NTASKS='2',
          SLURM_PROCID=str(i),
          SLURM_LOCALID=str(i),
          JAX_COORDINATOR_PORT=str(port),
        )
      elif len(devices) > 1:
        where = [
          f'--coordinator_address=localhost:{port}',
          f'--num_processes={len(devices)}',
          f'--process_id={i}',
        ]
      with open(logs / f'stderr{i}', 'w') as stderr:
        process = subprocess.Popen(
          [
            *within,
            sys.executable,
            '-c',
            PROGRAM,
            *small(workdir, images),
            *where,
            *flags,
            *[flag.format(workdir=workdir) for flag in own[i]],
          ],
          cwd=ROOT,
          env=env,
          stdout=subprocess.DEVNULL,
          stderr=stderr,
        )
      process.log, process.reads = logs / f'stderr{i}', logs / f'reads{i}'
      job.append(process)
      started.append(process)
    return job

  yield start
  for process in started:
    process.kill()
    process.wait()


class Clock:
  """Prints how long things took, for `pytest -s`."""

  def __init__(self):
    self._start = time.monotonic()

  def tell(self, what):
    print(f'\n{what}: {time.monotonic() - self._start:.1f} s', end='')
    self._start = time.monotonic()


def free_port():
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


def small(workdir, images):
  return (
    '--config=configs/quickstart.py',
    f'--workdir={workdir}',
    f'--config.dataset={images}',
    '--config.num_layers=1',
    '--config.hidden_dim=32',
    '--config.mlp_dim=64',
    '--config.num_heads=2',
    f'--config.batch_size={ROWS}',
    f'--config.total_steps={STEPS}',
    '--config.warmup_steps=5',
    '--config.log_every=5',
    '--config.eval_every=20',
    '--config.save_every=10',
    '--config.max_bad_records=9',
    '--config.num_threads=1',
  )


def end(job, codes, seconds=120):
  """Wait for the processes and check their exit codes. Return their logs."""
  until = time.monotonic() + seconds
  actual = [process.wait(until - time.monotonic()) for process in job]
  logs = [process.log.read_text() for process in job]
  assert actual == codes, '\n\n'.join(logs)
  return logs


def lines(workdir):
  """Return the complete lines of metrics.jsonl, to which a run may be writing, without speeds."""
  path = workdir / 'metrics.jsonl'
  text = path.read_text() if path.exists() else ''
  return [
    {k: v for k, v in json.loads(line).items() if k not in FIGURES}
    for line in text.split('\n')[:-1]
  ]


def wait_for_step(job, workdir, step):
  while not any(line['step'] >= step for line in lines(workdir)):
    assert all(p.poll() is None for p in job), [p.log.read_text() for p in job]
    time.sleep(0.1)


def wait_for_first_step(job):
  while 'The first step took' not in job[0].log.read_text():
    assert all(p.poll() is None for p in job), [p.log.read_text() for p in job]
    time.sleep(0.05)


def saved(workdir):
  return sorted(int(d.name) for d in (workdir / 'checkpoints').iterdir() if d.name.isdigit())


def fingerprints(workdir):
  """Return the fingerprints in the last checkpoint. Check those of the parameters on disk."""
  meta = json.loads((workdir / 'checkpoints' / str(STEPS) / 'meta/metadata').read_text())
  params = {f'params/{k}': v for k, v in fingerprint(read_arrays(workdir)).items()}
  assert params.items() <= meta['fingerprint'].items()
  return meta['fingerprint']


def reads(process):
  """Return {training example: image} of the batches up to the last step."""
  pairs = (map(int, line.split()) for line in process.reads.read_text().splitlines())
  return {example: image for example, image in pairs if example < STEPS * ROWS}


class StopAt:
  """A stand-in for `Stopper` that asks to stop at the given call."""

  def __init__(self, call):
    self.call = call

  def __call__(self):
    self.call -= 1
    return self.call <= 0


def interrupted(monkeypatch, call, c, workdir):
  """Train until the given call of `Stopper`, which asks to stop."""
  monkeypatch.setattr(train_lib, 'Stopper', lambda: StopAt(call))
  with pytest.raises(Interrupted):
    train_lib.train(c, workdir)
  monkeypatch.undo()
