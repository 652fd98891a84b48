"""Each fault that can end a run is caused in a real run, which then continues.

`pytest -s` also prints how long each took.
"""

import os
import random
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from tests.helpers.jobs import (
  IMAGES,
  ROWS,
  STEPS,
  Clock,
  end,
  fingerprints,
  lines,
  reads,
  saved,
  wait_for_first_step,
  wait_for_step,
)

pytestmark = pytest.mark.slow
ONE = dict(devices=(1,))


@pytest.fixture(scope='module')
def whole(start, tmp_path_factory):
  """Return the workdir and the process of an undisturbed run on one device."""
  workdir = tmp_path_factory.mktemp('whole')
  job = start(workdir, **ONE)
  end(job, [0])
  return workdir, job[0]


@pytest.fixture
def run(whole, tmp_path):
  """Return a copy of that workdir, as if the run had been killed before its last save."""
  shutil.copytree(whole[0], tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run/checkpoints' / str(STEPS))
  return tmp_path / 'run'


def go_on(start, workdir, whole, *flags):
  """Start the run again, and check that it ends like the undisturbed one."""
  clock, before = Clock(), max(saved(workdir), default=0)
  job = start(workdir, *flags, **ONE)
  wait_for_first_step(job)
  clock.tell(f'start to the first step after {before}')
  end(job, [0])
  assert lines(workdir) == lines(whole[0])
  assert fingerprints(workdir) == fingerprints(whole[0])


def arrays(step):
  """Return the files with a checkpoint's array data, the largest last."""
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
  (log,) = end(start(run, **ONE), [1])
  clock.tell('start to refusal')
  last = log.splitlines()[-1]
  assert last.startswith(f'error: The checkpoint {newest} '), log
  assert f'Delete that directory to continue from step {saved(run)[-2]}.' in last, log
  shutil.rmtree(newest)
  go_on(start, run, whole)


def test_a_non_finite_loss_is_not_saved(start, whole, run):
  before = saved(run)
  clock = Clock()
  (log,) = end(
    start(run, '--config.lr=1e30', '--config.clip_norm=0', '--config.save_every=1', **ONE), [1]
  )
  clock.tell('start to the error')
  last = log.splitlines()[-1]
  assert 'nan at step' in last or 'inf at step' in last, log
  kept = saved(run)
  assert f'step {kept[-1]}' in last, log
  for step in set(kept) - set(before):  # saved at a rate of 1e30, while the state was still finite
    shutil.rmtree(run / 'checkpoints' / str(step))
  assert before[-1] in kept
  # The run has recorded its bad values, so only the command line can change them back.
  go_on(start, run, whole, '--config.lr=1e-3', '--config.clip_norm=1')


@pytest.fixture
def small_disk(tmp_path):
  """Return remount(options) and a directory on a file system of its own, of 2 MB."""
  disk = tmp_path / 'disk'
  disk.mkdir()
  if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', disk]).returncode:
    pytest.skip('needs the right to mount; test_main has a limit on the size of files instead')

  def remount(options):
    subprocess.run(['mount', '-o', f'remount,{options}', disk], check=True)

  yield remount, disk
  subprocess.run(['umount', '--lazy', disk], check=True)


def test_a_disk_that_fills_up_keeps_what_was_saved(start, whole, small_disk):
  remount, disk = small_disk
  clock = Clock()
  (log,) = end(start(disk / 'run', '--config.keep=99', '--config.save_every=2', **ONE), [1])
  clock.tell('start to the error')
  last = log.splitlines()[-1]
  assert last.startswith('error: ') and str(disk / 'run') in last and 'o space left' in last, log
  assert len(saved(disk / 'run')) >= 2
  remount('size=99m')
  go_on(start, disk / 'run', whole)


@pytest.mark.parametrize('noticed', ['before the first step', 'while it writes'])
def test_a_full_disk_is_named(start, whole, run, small_disk, noticed):
  """Too little space is noticed at the start, a lack of inodes only while writing."""
  remount, disk = small_disk
  shutil.move(run, disk / 'run')
  before = contents(disk / 'run/checkpoints')
  used = os.statvfs(disk)
  if noticed == 'before the first step':
    remount(f'size={(used.f_blocks - used.f_bfree) * used.f_frsize + 100_000}')
    words = (
      f'There is no space left in {disk}/run/checkpoints: a checkpoint needs 0.2 MB and 0.1 MB are '
      'free. The checkpoints there are still good. Free some space and run the same command again.'
    )
  else:
    remount(f'nr_inodes={used.f_files - used.f_ffree + 12}')
    words = (
      f'Cannot write a checkpoint to {disk}/run/checkpoints: No space left on device. '
      'The checkpoint of step 20 is good. Correct that and run the same command again.'
    )
  clock = Clock()
  (log,) = end(start(disk / 'run', **ONE), [1])
  clock.tell('start to the error')
  assert log.splitlines()[-1].startswith(f'error: {words}'), log
  assert ('The first step took' in log) == (noticed == 'while it writes')
  after = contents(disk / 'run/checkpoints')
  assert before.items() <= after.items() and saved(disk / 'run') == [10, 20]
  remount('size=99m,nr_inodes=9999')
  go_on(start, disk / 'run', whole)


def contents(directory):
  return {path: path.read_bytes() for path in directory.rglob('*') if path.is_file()}


def test_a_write_that_fails_at_the_start_leaves_nothing_half(start, whole, tmp_path):
  """No file may grow past 1 KB, but config.json is larger."""
  limited = ('bash', '-c', 'ulimit -f 1 && exec "$0" "$@"')
  (log,) = end(start(tmp_path, within=limited, **ONE), [1])
  assert str(tmp_path) in log.splitlines()[-1] and 'File too large' in log.splitlines()[-1], log
  go_on(start, tmp_path, whole)


LAYOUTS = (
  (('--config.parallel=mesh', '--config.mesh=(8,1)'), dict(devices=(8,))),
  (('--config.parallel=mesh', '--config.mesh=(2,4)'), dict(devices=(8,))),
  ((), ONE),
  ((), dict(devices=(4, 4))),
)


def test_another_mesh_goes_on_with_the_same_examples(start, whole, tmp_path):
  """Train 5 steps on each of a mesh of 8 x 1, one of 2 x 4, one device, and two hosts."""
  expected, record = reads(whole[1]), lines(whole[0])
  for leg, (flags, how) in enumerate(LAYOUTS):
    workdir, first = tmp_path / str(leg), 5 * leg
    if leg:
      saved_as = f'checkpoints/{first}'
      shutil.copytree(tmp_path / str(leg - 1) / saved_as, workdir / saved_as)
    job = start(workdir, '--config.save_every=5', '--config.keep=9', *flags, **how)
    end(job, [0] * len(job))
    examples = dict(item for process in job for item in reads(process).items())
    assert examples == {k: expected[k] for k in range(first * ROWS, STEPS * ROWS)}
    for line, other in zip(lines(workdir), (x for x in record if x['step'] > first), strict=True):
      assert line.keys() == other.keys()
      np.testing.assert_allclose(list(line.values()), list(other.values()), rtol=1e-5)


@pytest.mark.parametrize('split, devices', [('train', (1,)), ('train', (4, 4)), ('val', (1,))])
def test_a_hung_source_ends_the_run(start, whole, images, tmp_path, split, devices):
  """The file of an image is a pipe that nobody writes to, so opening it never ends."""
  folder = shutil.copytree(images, tmp_path / 'images')
  files = sorted((folder / split).rglob('*.png'))
  # The last image of train, or the first one of val, with which an evaluation starts.
  pipe = files[IMAGES - 1 if split == 'train' else 0]
  image = pipe.read_bytes()
  pipe.unlink()
  os.mkfifo(pipe)
  example = min(k for k, record in reads(whole[1]).items() if record == IMAGES - 1)
  doing = {
    'train': f'waiting for the data of step {example // ROWS + 1}',
    'val': 'evaluating step 20',
  }[split]
  seconds = 10 if len(devices) == 1 else 15  # including the compilation
  flags = (
    f'--config.dataset={folder}',
    '--config.save_every=2',
    f'--config.hang_seconds={seconds}',
  )
  clock = Clock()
  logs = end(start(tmp_path / 'run', *flags, devices=devices), [1] * len(devices), seconds=60)
  clock.tell('start to the end')
  for log in logs:  # of two hosts, one waits for data, and the other waits for it in a step
    last = log.splitlines()[-1]
    assert last.startswith('error: ') and 'config.hang_seconds sets the time' in last, log
    if len(logs) == 1:
      assert last.startswith(f'error: No progress for {seconds} s {doing}. '), log
    else:
      assert f'No progress for {seconds} s ' in last, log
  assert any('folder.py' in log and 'in __getitem__' in log for log in logs), logs
  if split == 'train' and len(devices) == 1:
    pipe.unlink()
    pipe.write_bytes(image)
    go_on(start, tmp_path / 'run', whole, *flags)


def test_twenty_kills(start, tmp_path):
  """After 20 kills at random moments, a run equals an undisturbed one, bit for bit.

  Every second one is a SIGTERM. Every fifth comes while the run starts, the others while it trains.
  """
  flags = (
    '--config.total_steps=2000',
    '--config.log_every=10',
    '--config.save_every=20',
    '--config.eval_every=0',
    '--config.eval_split=none',
  )
  rng, at, interval = random.Random(0), 0, 20
  clock = Clock()
  for kill in range(20):
    job = start(tmp_path / 'killed', *flags, **ONE)
    starting = kill % 5 == 4
    if starting:
      time.sleep(rng.uniform(0, 4))
    else:
      wait_for_step(job, tmp_path / 'killed', at + interval)
      time.sleep(rng.uniform(0, 0.5))
    job[0].send_signal(signal.SIGTERM if kill % 2 else signal.SIGKILL)
    code = job[0].wait(60)
    # Before the run handles SIGTERM, the signal ends it like any program.
    assert code == (42 if kill % 2 else -signal.SIGKILL) or starting and code == -signal.SIGTERM
    at = lines(tmp_path / 'killed')[-1]['step']
    assert at - max(saved(tmp_path / 'killed'), default=0) <= 2 * interval
  clock.tell(f'20 kills, the last after step {at}')
  for workdir in (tmp_path / 'killed', tmp_path / 'whole'):
    end(start(workdir, *flags, **ONE), [0])
  assert lines(tmp_path / 'killed') == lines(tmp_path / 'whole')
  last = 'checkpoints/2000/meta/metadata'
  assert (tmp_path / 'killed' / last).read_text() == (tmp_path / 'whole' / last).read_text()
