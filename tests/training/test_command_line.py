"""A training program ends with an exit code and an explanation in its last line."""

import errno

from etils import epath
import jax
import pytest

from vit_jax.errors import InputError, Interrupted
from vit_jax.parallel import hosts
from vit_jax.training.command_line import exit_code, workdir_path


def raises(error):
  def work():
    raise error

  return work


@pytest.mark.parametrize(
  'work, code, last_line',
  [
    (lambda: None, 0, ''),
    (lambda: 3, 3, ''),
    (raises(Interrupted()), 42, ''),
    (raises(InputError('No.')), 1, 'error: No.'),
    (
      raises(OSError(errno.ENOSPC, 'No space left', 'a.txt')),
      1,
      'error: a.txt: No space left. What was saved before is good.',
    ),
    (
      raises(KeyboardInterrupt()),
      1,
      'error: Stopped at once, without saving. The last checkpoint is good.',
    ),
    (
      raises(
        jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 2000 bytes.')
      ),
      1,
      'error: The device is out of memory (it cannot allocate 0.0 GB). To use less, add '
      '--config.accumulate=2 (or more), --config.remat=full, --config.scan=True or '
      '--config.moment_dtype=bfloat16, shard the parameters with --config.parallel=mesh '
      '--config.mesh=1,0, or set a smaller --config.batch_size. vit_jax.tools.aot tells what fits.',
    ),
    (raises(KeyError('x')), 1, 'error: KeyError in vit_jax. See the traceback above.'),
  ],
)
def test_exit_codes_and_last_lines(work, code, last_line, capsys):
  assert exit_code(work) == code
  assert (capsys.readouterr().err.splitlines() or [''])[-1] == last_line


def test_of_two_processes_the_one_without_memory_says_so(monkeypatch, capsys):
  """Its error is one of JAX's, as if another process were gone."""
  monkeypatch.setattr(hosts, 'alone', lambda: False)
  monkeypatch.setattr(hosts, 'fail', lambda message: None)
  monkeypatch.setattr(hosts, '_remote_failure', lambda: None)
  error = jax.errors.JaxRuntimeError(
    'RESOURCE_EXHAUSTED: Out of memory allocating 9000000000 bytes.'
  )
  assert exit_code(raises(error)) == 1
  assert capsys.readouterr().err.startswith(
    'error: The device is out of memory (it cannot allocate 9.0 GB). To use less, add '
  )
  assert exit_code(raises(jax.errors.JaxRuntimeError('UNAVAILABLE: socket closed'))) == 1
  assert capsys.readouterr().err == (
    'error: Another process of this job is gone (UNAVAILABLE: socket closed). See its log, then '
    'run the same command again.\n'
  )


def test_workdirs(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert workdir_path('~/runs') == tmp_path / 'runs'
  assert isinstance(workdir_path('gs://bucket/run'), epath.Path)
  with pytest.raises(InputError, match='--workdir=nowhere://x cannot be written. Give a local'):
    workdir_path('nowhere://x')
