import errno
import io
import os
import re
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.paths import ROOT
from vit_jax.errors import (
  InputError,
  exit_on_error,
  explain,
  first_line,
  last_line,
  machine_failure,
  os_error_code,
  print_any_text,
  reason,
  remedy,
  shortlist,
  unknown,
)


def test_stdout_prints_names_that_its_encoding_lacks(monkeypatch):
  printed = io.BytesIO()
  monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(printed, encoding='ascii'))

  @exit_on_error
  def main():
    print('né caf\udce9', flush=True)
    return 0

  assert main() == 0 and printed.getvalue() == b'n\\xe9 caf\\udce9\n'
  monkeypatch.setattr(sys, 'stdout', None)  # as under pythonw, or after >&-
  print_any_text()


def test_an_unknown_choice_suggests_a_similar_one_and_lists_all():
  error = unknown('loss', 'sigmod', ('softmax', 'sigmoid'))
  assert isinstance(error, InputError) and isinstance(error, ValueError)
  assert str(error) == (
    "Unknown loss 'sigmod'. Did you mean 'sigmoid'? Available: softmax, sigmoid."
  )
  assert str(unknown('seed', 9, [1, 2])) == 'Unknown seed 9. Available: 1, 2.'


def test_a_long_list_ends_with_a_count():
  assert shortlist([]) == ''
  assert shortlist(iter('ab')) == 'a; b'
  assert shortlist('abcde', most=5) == 'a; b; c; d; e'
  assert shortlist('abcde', most=3) == 'a; b; c and 2 more'


def test_first_and_last_lines():
  error = ValueError('\nfirst\nmiddle\nlast\n')
  assert (first_line(error), last_line(error)) == ('first', 'last')
  assert first_line(KeyboardInterrupt()) == last_line(KeyboardInterrupt()) == 'KeyboardInterrupt'


def caused_by(cause, error):
  error.__cause__ = cause
  return error


def test_the_reason_is_what_the_operating_system_or_tensorstore_said():
  full = caused_by(ValueError("write failed os_error_code='28'"), RuntimeError('saving failed'))
  assert reason(full) == 'No space left on device' and os_error_code(full) == errno.ENOSPC
  store = caused_by(ValueError('DATA_LOSS: bad chunk [tensorstore_spec={}]'), RuntimeError('x'))
  assert reason(store) == 'DATA_LOSS: bad chunk' and os_error_code(store) is None
  denied = PermissionError(errno.EACCES, 'Permission denied')
  assert os_error_code(caused_by(denied, ValueError('y'))) == errno.EACCES
  assert reason(denied) == 'Permission denied' and reason(ValueError('one\ntwo')) == 'one'


def test_a_long_reason_keeps_its_end():
  text = 'a' * 100 + 'b' * 101
  assert reason(ValueError(text)) == f'{text[:60]} ... {text[-140:]}'
  assert reason(ValueError(text[1:])) == text[1:]


@pytest.mark.parametrize(
  'error, code, line',
  [
    (None, 0, ''),
    (InputError('Cannot read x. Check it.'), 1, 'error: Cannot read x. Check it.\n'),
    (KeyboardInterrupt(), 130, 'error: Interrupted before the end.\n'),
    (PermissionError(13, 'Permission denied', 'a.csv'), 1, 'error: a.csv: Permission denied.\n'),
    (
      MemoryError('Unable to allocate 12.8 GiB'),
      1,
      'error: This machine is out of memory (Unable to allocate 12.8 GiB). If the command has '
      '--batch_size or --image_size, give smaller ones. Otherwise, use a machine with more '
      'memory.\n',
    ),
  ],
)
def test_a_tool_ends_in_one_line_and_an_exit_code(capsys, error, code, line):
  @exit_on_error
  def main(argv=None):
    assert argv == ['x']
    if error is not None:
      raise error
    return 0

  assert main(['x']) == code and main.__name__ == 'main'
  assert capsys.readouterr().err == line


def test_a_bug_keeps_its_traceback():
  @exit_on_error
  def main(argv=None):
    raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    main()


def raised(function):
  try:
    function()
  except Exception as e:
    return e
  pytest.fail()


def test_a_lack_of_memory_is_explained_with_the_flags_that_help():
  error = raised(lambda: jnp.ones((10**6, 10**7)).block_until_ready())
  assert explain(error, 'Use less.') == (
    'The device is out of memory (it cannot allocate 40,000.0 GB). Use less.'
  )
  tpu = RuntimeError(
    'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.31G of 15.75G hbm.'
  )
  assert machine_failure(tpu) == 'The device is out of memory (20.31GiB are needed, of 15.75GiB).'
  error = raised(lambda: np.empty(10**15))
  assert machine_failure(error).startswith('This machine is out of memory (Unable to allocate 7.')
  assert machine_failure(caused_by(MemoryError(), ValueError('x'))) == (
    'This machine is out of memory (MemoryError).'
  )
  quota = ValueError('RESOURCE_EXHAUSTED: quota of the bucket')  # of TensorStore
  assert machine_failure(quota) is None and explain(quota) is None


def test_a_device_that_does_not_exist(monkeypatch):
  unknown_backend = raised(lambda: jax.devices('foo'))
  monkeypatch.delenv('JAX_PLATFORMS')
  assert re.fullmatch(
    'JAX cannot use a device: Unknown backend.*foo.* Set JAX_PLATFORMS=cpu to go on without it.',
    machine_failure(unknown_backend),
  )
  monkeypatch.setenv('JAX_PLATFORMS', 'gpu')
  error = RuntimeError(
    "Unable to initialize backend 'rocm': Backend 'rocm' is not in the list of known backends: "
    "['cpu', 'tpu']. (set JAX_PLATFORMS='' to automatically choose an available backend)"
  )
  assert machine_failure(caused_by(error, KeyError('x'))) == (
    'JAX cannot use JAX_PLATFORMS=gpu here: no such platform is installed. Set JAX_PLATFORMS=cpu, '
    'or unset it to use the devices that this machine has.'
  )
  error = RuntimeError(
    "Unable to initialize backend 'tpu': INTERNAL: no chip. (you may need to uninstall it)"
  )
  assert 'JAX_PLATFORMS=gpu here: INTERNAL: no chip. Set ' in machine_failure(error)


def test_no_more_threads():
  error = caused_by(RuntimeError("can't start new thread"), ValueError('x'))
  assert machine_failure(error) == (
    'This machine allows no more threads. End other programs, or raise the limit (ulimit -u).'
  )


def test_a_killed_worker_and_a_missing_module():
  worker = RuntimeError(
    'Worker process was terminated unexpectedly with exit code -9. Search the logs above for the '
    'source of the crash.'
  )
  assert explain(worker) == (
    'A worker process that reads images ended with exit code -9. If it was killed for lack of '
    'memory, set a smaller --config.num_workers or --config.batch_size.'
  )
  assert explain(ModuleNotFoundError(name='cv2')) == (
    'The Python module cv2 is missing. Install vit_jax again, with all that it needs: '
    'pip install -c constraints.txt -e .'
  )
  for bug in (KeyError('x'), RuntimeError('x'), ModuleNotFoundError(name='vit_jax.x'), OSError()):
    assert explain(bug) is None


def test_a_file_that_the_system_refuses_is_not_called_damaged():
  assert remedy(ValueError('bad'), 'Download it.') == 'Download it.'
  assert remedy(FileNotFoundError(2, 'x'), 'Download it.') == 'Download it.'
  assert remedy(PermissionError(13, 'x'), 'Download it.') == 'Check its permissions and its disk.'


TOOL = """
from vit_jax.errors import InputError, exit_on_error
@exit_on_error
def main():
  print('result')
  return 0
raise SystemExit(main())
"""


def shell(redirection, program=TOOL, **variables):
  """Run a program within a shell. Return its exit code and what it wrote to stderr."""
  done = subprocess.run(
    ['bash', '-c', f'"{sys.executable}" -c "$0" {redirection}; exit ${{PIPESTATUS[0]}}', program],
    cwd=ROOT,
    env=os.environ | variables,
    stderr=subprocess.PIPE,
    text=True,
  )
  return done.returncode, done.stderr


@pytest.mark.parametrize('unbuffered', ['', '1'])
@pytest.mark.parametrize(
  'redirection, expected',
  [
    ('> /dev/null', (0, '')),
    (
      '> /dev/full',
      (
        1,
        'error: Cannot write to standard output: No space left on device. Send it to another '
        'place.\n',
      ),
    ),
    ('| true', (0, '')),
    ('>&-', (1, 'error: Standard output is closed. Send it to a file, a program or /dev/null.\n')),
  ],
)
def test_standard_output_that_is_full_or_closed(redirection, expected, unbuffered):
  if not os.path.exists('/dev/full'):
    pytest.skip('Linux has /dev/full')
  assert shell(redirection, PYTHONUNBUFFERED=unbuffered) == expected


def test_another_file_is_not_taken_for_standard_output(capsys):
  @exit_on_error
  def main():
    raise OSError(errno.ENOSPC, 'No space left on device')

  assert main() == 1
  assert capsys.readouterr().err == 'error: No space left on device.\n'


@pytest.mark.parametrize('code', [errno.ECONNRESET, errno.EHOSTUNREACH, errno.EAGAIN])
def test_an_error_of_the_network_prints_nothing_to_standard_output(capsys, code):
  @exit_on_error
  def main():
    print('{}')
    raise OSError(code, os.strerror(code))

  assert main() == 1
  assert capsys.readouterr() == ('{}\n', f'error: {os.strerror(code)}.\n')


def test_closed_streams_are_not_taken_by_files():
  program = TOOL.replace("print('result')", "assert open('setup.py').fileno() > 2")
  assert shell('0>&- 2>&- > /dev/null', program) == (0, '')


LIBTPU = """
import os
def get_library_path():
  with open(os.environ['CALLS'], 'a') as f: f.write('x')
  return '/nowhere/libtpu.so'
"""


@pytest.mark.parametrize(
  'variables, calls', [({}, 0), ({'JAX_PLATFORMS': 'tpu'}, 1), ({'TPU_WORKER_ID': '0'}, 1)]
)
def test_no_command_loads_the_tpu_compiler_unless_there_may_be_a_tpu(tmp_path, variables, calls):
  (tmp_path / 'libtpu').mkdir()
  (tmp_path / 'libtpu' / '__init__.py').write_text(textwrap.dedent(LIBTPU))
  env = os.environ | {'CALLS': str(tmp_path / 'calls'), 'PYTHONPATH': f'{tmp_path}:{ROOT}'}
  env.pop('JAX_PLATFORMS')
  env.pop('TPU_LIBRARY_PATH', None)  # where libtpu is installed, importing JAX sets it
  program = TOOL.replace(
    "print('result')",
    "import jax; open(os.environ['CALLS'], 'w').close()\n  print(jax.devices()[0].platform)",
  )
  done = subprocess.run(
    [sys.executable, '-c', 'import os' + program],
    env=env | variables,
    capture_output=True,
    text=True,
  )
  assert (tmp_path / 'calls').read_text() == 'x' * calls
  if 'JAX_PLATFORMS' in variables:
    assert done.stderr.startswith('error: JAX cannot use JAX_PLATFORMS=tpu here: '), done.stderr
  else:
    assert (done.stdout, done.stderr) == ('cpu\n', '')
