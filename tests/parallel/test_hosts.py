"""Run two hosts as two real processes of four simulated devices each, with real signals."""

import signal

import numpy as np
import pytest

from tests.helpers.jobs import (
  ROWS,
  STEPS,
  Clock,
  end,
  fingerprints,
  free_port,
  lines,
  reads,
  saved,
  wait_for_first_step,
  wait_for_step,
)
from vit_jax.errors import InputError
from vit_jax.parallel import hosts


@pytest.fixture(scope='module')
def two(start, tmp_path_factory):
  """Run two hosts without interruption. Return the workdir, logs and processes."""
  workdir = tmp_path_factory.mktemp('two')
  job = start(workdir, '--num_devices=8')
  return workdir, end(job, [0, 0]), job


@pytest.mark.slow
def test_two_hosts_equal_one(two, start, tmp_path):
  """2 x 4 devices give the same metrics, losses and evaluations as 1 x 8 devices."""
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
  # Other processes log only warnings.
  warnings = [line for line in other_log.splitlines() if 'Gloo' not in line]
  assert all('process 1: Skipped record' in line for line in warnings), other_log
  skipped = log.count('Skipped record') + len(warnings)
  assert skipped == 4 + 1  # 3 in train, counted once, and 1 in val in each evaluation
  assert len(list((workdir / 'tensorboard').iterdir())) == 1
  assert (workdir / 'log.txt').read_text() in log


@pytest.mark.slow
def test_sigterm_to_one_host_saves_on_both(two, start, tmp_path):
  """Both save at the same step and exit with 42. SLURM starts the job again with equal results."""
  job = start(tmp_path)
  wait_for_step(job, tmp_path, 5)
  job[1].send_signal(signal.SIGTERM)
  clock = Clock()
  log, _ = end(job, [42, 42])
  clock.tell('SIGTERM to the end of both')
  step = saved(tmp_path)[-1]
  assert 5 <= step < STEPS and f'Stopped at step {step} of {STEPS} and saved' in log
  clock, job = Clock(), start(tmp_path, slurm=True)
  wait_for_first_step(job)
  clock.tell('start of both to the first step')
  log, _ = end(job, [0, 0])
  assert f'from step {step} of {STEPS}' in log and '8 device(s)' in log
  assert lines(tmp_path) == lines(two[0])
  assert fingerprints(tmp_path) == fingerprints(two[0])


@pytest.mark.slow
def test_a_killed_host_ends_the_other(two, start, tmp_path):
  """The other ends within a minute, and both can resume. The state is sharded over the hosts."""
  reached = 0
  for killed in (1, 0):
    clock, job = Clock(), start(tmp_path, '--config.parallel=mesh', '--config.mesh=(1,8)')
    wait_for_first_step(job)
    clock.tell(f'start of both to the first step after {reached}')
    wait_for_step(job, tmp_path, reached + 15)
    job[killed].kill()
    clock = Clock()
    assert job[1 - killed].wait(60) not in (0, 42)
    clock.tell(f'SIGKILL of process {killed} to the end of the other')
    log = job[0].log.read_text()
    assert f'from step {reached} of {STEPS}' in log if reached else 'Starting a new run' in log
    reached = saved(tmp_path)[-1]
    assert reached >= 10
  record = lines(tmp_path)
  for line, other in zip(record, lines(two[0])):
    np.testing.assert_allclose(list(line.values()), list(other.values()), rtol=1e-5)


FAILURES = {
  'data of one host': (
    dict(own=((), ('--config.dataset=digits', '--config.data_dir=/dev/null'))),
    'Process 1 failed: Cannot write the dataset digits to /dev/null',
    'error: Cannot write the dataset digits to /dev/null',
  ),
  'another config': (
    dict(own=((), ('--config.lr=.5',))),
    'Process 1 failed: config.lr is 0.5 on process 1 and 0.001 on process 0. All processes must',
    'error: config.lr is 0.5 on process 1 and 0.001 on process 0. All processes must',
  ),
  'another workdir': (
    dict(own=((), ('--workdir={workdir}/other',))),
    'error: Process 1 does not see what process 0 writes to',
    'Give a directory that all hosts share, or a bucket (gs://).',
  ),
  'more processes': (
    dict(own=((), ('--num_processes=3',))),
    'Process 1 failed: --num_processes is 3 on this process, but 2 on process 0. Use the same',
    'error: --num_processes is 3 on this process, but 2 on process 0. Use the same',
  ),
  'fewer devices': (dict(devices=(4, 2)), 'error: Process ', 'error: Process '),
  'a process that never comes': (
    dict(
      devices=(4,),
      own=(
        (
          f'--coordinator_address=localhost:{free_port()}',
          '--num_processes=2',
          '--process_id=0',
          '--start_timeout=5',
        ),
      ),
    ),
    'error: Not all processes of this job connected to localhost:',
  ),
}


@pytest.fixture(scope='module')
def failures(start, tmp_path_factory):
  """Start all FAILURES at once, because they wait most of the time."""
  workdir = tmp_path_factory.mktemp('failures')
  return {name: start(workdir / name, **options) for name, (options, *_) in FAILURES.items()}


@pytest.mark.slow
@pytest.mark.parametrize('name', FAILURES)
def test_one_failure_ends_all_with_one_sentence(failures, name):
  words = FAILURES[name][1:]
  logs = end(failures[name], [1] * len(words), seconds=60)
  for log, expected in zip(logs, words):
    assert expected in log.splitlines()[-1], log
    assert 'Traceback' not in log


@pytest.mark.parametrize(
  'flags, words',
  [
    (('localhost:1', 2, 2), '--process_id=2 is out of range: with --num_processes=2, .* 0 to 1'),
    ((None, 2, None), '--process_id go together. Give all three'),
  ],
)
def test_impossible_flags_are_found_at_once(flags, words):
  with pytest.raises(InputError, match=words):
    hosts.start(*flags)


def test_mpi_needs_mpi4py(monkeypatch):
  monkeypatch.setenv('OMPI_COMM_WORLD_SIZE', '4')
  monkeypatch.setattr(hosts.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(
    InputError, match='^mpirun started 4 processes, which cannot find each other. Install mpi4py'
  ):
    hosts._mpi_size()
  monkeypatch.delenv('OMPI_COMM_WORLD_SIZE')
  assert hosts._mpi_size() == 1


def test_alone_there_is_nobody_to_ask(tmp_path):
  assert hosts.gather({'a': 1}) == [{'a': 1}]
  hosts.check_same({'a': 1})
  hosts.check_shared(tmp_path / 'none')
