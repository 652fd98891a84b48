"""Errors that a user can meet, and how a failure is put into words."""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import difflib
import errno
import functools
import glob
import importlib.util
import io
import logging
import os
import re
import sys
from typing import ParamSpec, TextIO

_Parameters = ParamSpec('_Parameters')

_INTERRUPTED = 130  # the shell's exit code for Ctrl-C
_LESS_MEMORY = (
  'If the command has --batch_size or --image_size, give smaller ones. Otherwise, use a machine '
  'with more memory.'
)
# What writing to a pipe, a terminal or a disk can raise.
_WRITE_ERRORS = (
  errno.EPIPE, errno.EBADF, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG
)  # fmt: skip
_TPU_FILES = ('/dev/accel*', '/dev/vfio/[0-9]*')
_TPU_VARIABLES = {'TPU_NAME', 'TPU_WORKER_ID', 'TPU_WORKER_HOSTNAMES'}
_LINE = 200  # characters of another program's message that still read as one line


class InputError(ValueError):
  """Bad input from the user. The message says what happened, where, and what to do.

  Programs (main, tools) print the message without a traceback and exit with code 1. Library
  callers may catch it as a ValueError.
  """


class NotFinite(InputError):
  """Training diverged: the loss, a gradient or a parameter is not finite."""


class Interrupted(Exception):
  """The run was asked to stop and has saved a checkpoint. The same command continues it."""


def unknown(kind: str, value: object, choices: Iterable[object]) -> InputError:
  """Return the error for a value that is not among the choices.

  Args:
    kind: the kind of value, such as 'loss'.
    value: the value that was given.
    choices: the values that exist.
  """
  names = [str(choice) for choice in choices]
  near = difflib.get_close_matches(str(value), names, 1)
  hint = f' Did you mean {near[0]!r}?' if near else ''
  return InputError(f'Unknown {kind} {value!r}.{hint} Available: {", ".join(names)}.')


def shortlist(items: Iterable[str], most: int = 10) -> str:
  """Join items for an error message. After the first `most` items, give a count of the rest."""
  items = list(items)
  rest = f' and {len(items) - most} more' if len(items) > most else ''
  return '; '.join(items[:most]) + rest


def first_line(error: BaseException) -> str:
  """Return the first line of an error's message, or its type's name if it has no message."""
  return _lines(error)[0]


def last_line(error: BaseException) -> str:
  """Return the last line of an error's message, or its type's name if it has no message."""
  return _lines(error)[-1]


def reason(error: BaseException) -> str:
  """Return in one line why an operation on a file failed.

  The reason is the operating system's own message, such as 'No space left on device', if `error`
  has it or if TensorStore reports its errno somewhere in the chain of causes. Otherwise it is the
  first line of TensorStore's message in the chain, or of `error` itself. A long line is cut in the
  middle, because its end names the cause.
  """
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  for cause in causes(error):
    if code := _tensorstore_code(cause):
      return os.strerror(code)
    if re.match('[A-Z_]+: ', str(cause)):  # TensorStore's own message, not a caller's
      error = cause
  return _shorten(first_line(error).split(' [tensorstore_spec=')[0])


def os_error_code(error: BaseException) -> int | None:
  """Return the operating system's errno from the chain of causes, or None if there is none."""
  codes = (
    (isinstance(cause, OSError) and cause.errno) or _tensorstore_code(cause)
    for cause in causes(error)
  )
  return next(filter(None, codes), None)


def print_any_text() -> None:
  """Let stdout escape characters that its encoding lacks. By default, they would be an error.

  Names of files and classes may hold any character, and also bytes that are no character at all.
  """
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors='backslashreplace')


def remedy(error: BaseException, damaged: str) -> str:
  """Return what to do about a file that cannot be read.

  Args:
    error: the reason.
    damaged: the sentence for a damaged file.
  """
  refused = os_error_code(error) not in (None, errno.ENOENT)
  return 'Check its permissions and its disk.' if refused else damaged


def causes(error: BaseException | None) -> Iterator[BaseException]:
  """Yield an error and its causes, and what was being handled when it was raised."""
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__


def explain(error: BaseException, less_memory: str = '') -> str | None:
  """Return in one line why a command failed, or None if the program itself is at fault.

  Args:
    error: what the command raised.
    less_memory: sentence that says how to use less memory, for errors that need it.
  """
  if isinstance(error, InputError):
    return str(error)
  if message := machine_failure(error, less_memory):
    return message
  if isinstance(error, OSError) and error.errno:
    file = f'{error.filename}: ' if error.filename else ''
    return f'{file}{error.strerror or error}.'
  if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith('vit_jax'):
    return (
      f'The Python module {error.name} is missing. Install vit_jax again, with all that it needs: '
      'pip install -c constraints.txt -e .'
    )
  return None


def machine_failure(error: BaseException, less_memory: str = '') -> str | None:
  """Return in one line what the machine lacks, or None if the error has another cause.

  Such an error says nothing about the file or the example that was being read. So code that blames
  these for any exception first asks this function, and raises the error again if it returns a
  sentence.

  Args:
    error: the exception, with its chain of causes.
    less_memory: sentence that says how to use less memory.
  """
  for cause in causes(error):
    text = str(cause)
    if isinstance(cause, MemoryError):
      return f'This machine is out of memory ({reason(cause)}). {less_memory}'.rstrip()
    if not isinstance(cause, RuntimeError):
      continue
    if text == "can't start new thread":
      return (
        'This machine allows no more threads. End other programs, or raise the limit (ulimit -u).'
      )
    if text.startswith('RESOURCE_EXHAUSTED'):
      return f'The device is out of memory ({_shortage(text)}). {less_memory}'.rstrip()
    if re.match("Unable to initialize backend|Unknown backend|Backend '.*' failed to", text):
      return _no_device(text)
    if code := re.search('Worker process was terminated .* with exit code (-?\\d+)', text):
      return (
        f'A worker process that reads images ended with exit code {code[1]}. If it was killed for '
        'lack of memory, set a smaller --config.num_workers or --config.batch_size.'
      )
  return None


def exit_on_error(main: Callable[_Parameters, int]) -> Callable[_Parameters, int]:
  """Decorate a tool's `main` so that it ends with an exit code, and a failure with one line."""

  @functools.wraps(main)
  def run(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> int:
    try:
      prepare_command()
      if sys.stdout is None:
        raise InputError('Standard output is closed. Send it to a file, a program or /dev/null.')
      with printing():
        return main(*args, **kwargs)
      return 0
    except KeyboardInterrupt:
      say('error: Interrupted before the end.')
      return _INTERRUPTED
    except Exception as e:
      message = explain(e, _LESS_MEMORY)
      if message is None:
        raise
      say(f'error: {message}')
      return 1

  return run


def prepare_command() -> None:
  """Prepare the process for any command: its standard streams, and what JAX loads."""
  for descriptor in range(3):
    try:
      os.fstat(descriptor)
    except OSError:  # closed: the next file would get its number, and what is printed
      os.open(os.devnull, os.O_RDWR)
  if sys.stderr is None:
    sys.stderr = open(os.devnull, 'w')  # noqa: SIM115 (stays open until the process ends)
  print_any_text()
  logging.basicConfig(format='warning: %(message)s')  # of tools; training has a log of its own
  if importlib.util.find_spec('libtpu') is not None:
    _skip_libtpu()


@contextlib.contextmanager
def printing() -> Iterator[None]:
  """End the block quietly if nobody reads standard output any more, such as `head`.

  Raises:
    InputError: standard output cannot be written.
  """
  leaving = None
  try:
    try:
      yield
    except SystemExit as e:  # argparse has printed --help
      leaving = e
    if sys.stdout is not None:
      sys.stdout.flush()
  except OSError as e:
    cause = None if e.filename else _stdout_error(e)
    if cause is None:
      raise
    if not isinstance(cause, BrokenPipeError):
      raise InputError(
        f'Cannot write to standard output: {cause.strerror}. Send it to another place.'
      ) from e
  if leaving is not None:
    raise leaving


def say(message: str, stream: TextIO | None = None) -> None:
  """Print a line to a stream, by default to standard error, if that is possible."""
  with contextlib.suppress(OSError, ValueError):
    print(message, file=stream or sys.stderr, flush=True)


def _stdout_error(error: OSError) -> OSError | None:
  """Return why standard output cannot be written, or None if `error` comes from elsewhere.

  If it cannot, what is left of it is dropped, because Python would write it again at the exit.
  """
  stream = sys.stdout
  if stream is None:
    return None
  try:
    stream.flush()  # what was printed may still be in memory
    if error.errno in _WRITE_ERRORS:
      print(file=stream, flush=True)  # the only way to find out
    return None
  except OSError as e:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return e


def _skip_libtpu() -> None:
  """Keep JAX from loading libtpu on a machine without a TPU, where that prints errors.

  libtpu is also a compiler, which vit_jax.tools.aot loads by itself. If JAX has found a TPU, or the
  user asks for one, `jax_platforms` says so. In a container, JAX may not find it, but its device
  files or variables are there.
  """
  if any(glob.glob(files) for files in _TPU_FILES) or _TPU_VARIABLES & os.environ.keys():
    return
  import jax
  from jax.extend import backend

  if jax.config.jax_platforms is None:  # pyright: ignore (JAX does not declare it)
    backend.register_backend_factory('tpu', lambda: None, fail_quietly=True)


def _shortage(text: str) -> str:
  """Return the part of XLA's message on a lack of memory that a user needs."""
  if size := re.search(r'allocat\w+ (\d+) bytes', text):
    return f'it cannot allocate {int(size[1]) / 1e9:,.1f} GB'
  if used := re.search(r'Used ([\d.]+[KMGT]) of ([\d.]+[KMGT])', text):
    return f'{used[1]}iB are needed, of {used[2]}iB'
  return _shorten(text.splitlines()[0].removeprefix('RESOURCE_EXHAUSTED: '))


def _no_device(text: str) -> str:
  """Return the sentence for a message of JAX that a platform cannot be used."""
  cause = re.sub(r' *\((set|you may need).*', '', text.splitlines()[0]).rstrip('.')
  cause = re.sub(r"^Unable to initialize backend '\w+': ", '', cause)
  if asked := os.environ.get('JAX_PLATFORMS'):
    if 'not in the list of known backends' in cause:
      cause = 'no such platform is installed'
    return (
      f'JAX cannot use JAX_PLATFORMS={asked} here: {cause}. Set JAX_PLATFORMS=cpu, or unset it to '
      'use the devices that this machine has.'
    )
  return f'JAX cannot use a device: {cause}. Set JAX_PLATFORMS=cpu to go on without it.'


def _shorten(line: str) -> str:
  """Cut a long line in the middle, because its end names the cause."""
  return line if len(line) <= _LINE else f'{line[:60]} ... {line[-140:]}'


def _lines(error: BaseException) -> list[str]:
  return str(error).strip().splitlines() or [type(error).__name__]


def _tensorstore_code(error: BaseException) -> int | None:
  """Return the errno in TensorStore's message. The rest of the message varies between versions."""
  code = re.search(r"os_error_code='(\d+)'", str(error))
  return int(code[1]) if code else None
