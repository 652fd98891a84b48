"""What ends a run, each really done to one, and how it goes on.

`pytest -s` also tells how long each took.
"""

import os
import random
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from jobs import (ROWS, STEPS, Clock, end, fingerprints, images, lines, reads, saved, start,
                  wait_for_step)

pytestmark = pytest.mark.slow
ONE = dict(devices=(1,))


@pytest.fixture(scope='module')
def whole(start, tmp_path_factory):
  """An undisturbed run on one device: its workdir and process."""
  workdir = tmp_path_factory.mktemp('whole')
  job = start(workdir, **ONE)
  end(job, [0])
  return workdir, job[0]


@pytest.fixture
def run(whole, tmp_path):
  """The same one, as if killed before its last save."""
  shutil.copytree(whole[0], tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run/checkpoints' / str(STEPS))
  return tmp_path / 'run'


def go_on(start, workdir, whole):
  """Starts again: it goes on to the end as if nothing had been."""
  clock, before = Clock(), saved(workdir)[-1]
  job = start(workdir, **ONE)
  while 'the first step took' not in job[0].log.read_text():
    assert job[0].poll() is None, job[0].log.read_text()
    time.sleep(.05)
  clock.tell(f'start to the first step after {before}')
  end(job, [0] * len(job))
  assert lines(workdir) == lines(whole[0])
  assert fingerprints(workdir) == fingerprints(whole[0])


def arrays(step):
  """The files with a checkpoint's array data, the largest last."""
  files = [path for path in (step / 'state').rglob('*') if path.is_file() and 'd' in path.parts]
  return sorted(files, key=lambda path: path.stat().st_size)


def truncate(step):
  os.truncate(arrays(step)[-1], arrays(step)[-1].stat().st_size // 2)


def flip_a_byte(step):
  data = bytearray(arrays(step)[-1].read_bytes())
  data[len(data) // 2] ^= 1
  arrays(step)[-1].write_bytes(data)


def lose_metadata(step):
  (step / 'meta' / 'metadata').unlink()


@pytest.mark.parametrize('damage', [truncate, flip_a_byte, lose_metadata])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_serves(start, whole, run, damage):
  newest = run / 'checkpoints' / str(saved(run)[-1])
  damage(newest)
  clock = Clock()
  log, = end(start(run, **ONE), [1])
  clock.tell('start to refusal')
  last = log.splitlines()[-1]
  assert last.startswith(f'error: the checkpoint {newest} '), log
  assert f'delete that directory to go on from step {saved(run)[-2]}' in last, log
  shutil.rmtree(newest)
  go_on(start, run, whole)


def test_a_non_finite_loss_is_not_saved(start, whole, run):
  before = saved(run)
  clock = Clock()
  log, = end(start(run, '--config.lr=1e30', '--config.clip_norm=0', '--config.save_every=1',
                   **ONE), [1])
  clock.tell('start to the error')
  last = log.splitlines()[-1]
  assert 'nan at step' in last or 'inf at step' in last, log
  kept = saved(run)
  assert f'step {kept[-1]}' in last, log
  for step in set(kept) - set(before):  # of the steps with a rate of 1e30, finite as yet
    shutil.rmtree(run / 'checkpoints' / str(step))
  assert before[-1] in kept
  go_on(start, run, whole)


@pytest.fixture
def small_disk(tmp_path):
  """grow(), and a directory on a file system of its own, of 2 MB."""
  disk = tmp_path / 'disk'
  disk.mkdir()
  if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', disk]).returncode:
    pytest.skip('needs the right to mount; test_main has a limit on the size of files instead')
  yield lambda: subprocess.run(['mount', '-o', 'remount,size=99m', disk], check=True), disk
  subprocess.run(['umount', '--lazy', disk], check=True)


def test_a_full_disk_keeps_what_was_saved(start, whole, small_disk):
  grow, disk = small_disk
  clock = Clock()
  log, = end(start(disk / 'run', '--config.keep=99', '--config.save_every=2', **ONE), [1])
  clock.tell('start to the error')
  last = log.splitlines()[-1]
  assert last.startswith('error: ') and str(disk / 'run') in last and 'o space left' in last, log
  assert len(saved(disk / 'run')) >= 2
  grow()
  go_on(start, disk / 'run', whole)


def test_another_spread_goes_on_with_the_same_examples(start, whole, tmp_path):
  """8 x 1 -> 2 x 4 -> one device -> two hosts."""
  shared = {}
  for stop, (flags, how) in zip((6, 11, 16, None), (
      (('--config.parallel=mesh', '--config.mesh=(8,1)'), dict(devices=(8,))),
      (('--config.parallel=mesh', '--config.mesh=(2,4)'), dict(devices=(8,))),
      ((), ONE), ((), dict(devices=(4, 4))))):
    job = start(tmp_path, *flags, **how)
    if stop:
      wait_for_step(job, tmp_path, stop)
      job[0].send_signal(signal.SIGTERM)
    end(job, [42 if stop else 0] * len(job))
    for process in job:
      found = reads(process)
      assert all(shared.get(example, record) == record for example, record in found.items())
      shared |= found
  assert shared == reads(whole[1]) and len(shared) == STEPS * ROWS
  for line, other in zip(lines(tmp_path), lines(whole[0]), strict=True):
    assert line.keys() == other.keys()
    np.testing.assert_allclose(list(line.values()), list(other.values()), rtol=1e-5)


def test_a_hung_source_ends_the_run(start, images, tmp_path):
  """The file of an image is a pipe into which nobody writes: to open it takes for ever."""
  folder = shutil.copytree(images, tmp_path / 'images')
  pipe = max((folder / 'train').rglob('*.png'))
  pipe.unlink()
  os.mkfifo(pipe)
  clock = Clock()
  log, = end(start(tmp_path / 'run', f'--config.dataset={folder}', '--config.hang_seconds=15',
                   **ONE), [1], seconds=90)
  clock.tell('start to the end')
  last = log.splitlines()[-1]
  assert last.startswith('error: no progress for 15 s waiting for the data of step '), log
  assert 'config.hang_seconds' in last
  assert 'in _load' in log or 'folder.py' in log, log  # the stack of the thread that hangs


def test_twenty_kills(start, tmp_path):
  """At random moments, every second one a SIGTERM; then bitwise what an undisturbed run is."""
  flags = ('--config.total_steps=4000', '--config.log_every=10', '--config.save_every=20',
           '--config.eval_every=0', '--config.eval_split=none')
  rng, at, interval = random.Random(0), 0, 20
  clock = Clock()
  for kill in range(20):
    job = start(tmp_path / 'killed', *flags, **ONE)
    wait_for_step(job, tmp_path / 'killed', at + interval)
    time.sleep(rng.uniform(0, .5))
    job[0].send_signal(signal.SIGTERM if kill % 2 else signal.SIGKILL)
    job[0].wait(60)
    assert job[0].returncode == (42 if kill % 2 else -signal.SIGKILL)
    at = lines(tmp_path / 'killed')[-1]['step']
    assert at - max(saved(tmp_path / 'killed'), default=0) <= 2 * interval
  clock.tell(f'20 kills, the last after step {at}')
  for workdir in (tmp_path / 'killed', tmp_path / 'whole'):
    end(start(workdir, *flags, **ONE), [0])
  assert lines(tmp_path / 'killed') == lines(tmp_path / 'whole')
  last = 'checkpoints/4000/meta/metadata'
  assert (tmp_path / 'killed' / last).read_text() == (tmp_path / 'whole' / last).read_text()
