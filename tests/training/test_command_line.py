"""A training program ends with an exit code and an explanation in its last line."""

import errno

from etils import epath
import pytest

from vit_jax.errors import InputError, Interrupted
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
    (raises(KeyError('x')), 1, 'error: KeyError in vit_jax. See the traceback above.'),
  ],
)
def test_exit_codes_and_last_lines(work, code, last_line, capsys):
  assert exit_code(work) == code
  assert (capsys.readouterr().err.splitlines() or [''])[-1] == last_line


def test_workdirs(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert workdir_path('~/runs') == tmp_path / 'runs'
  assert isinstance(workdir_path('gs://bucket/run'), epath.Path)
  with pytest.raises(InputError, match='--workdir=nowhere://x cannot be written. Give a local'):
    workdir_path('nowhere://x')
