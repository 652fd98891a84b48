"""What the programs that train have in common: flags, exit codes, last words.

Exit code: 0 when all is done, 42 when stopped and saved (the same command goes on), 1 on an error,
named in the last line.
"""

from collections.abc import Callable, Sequence
import os
import pathlib
import sys
import traceback
from typing import NoReturn

from absl import flags
from etils import epath
import jax
from ml_collections import ConfigDict

from vit_jax.config.flags import config_file, define_config, parse_config
from vit_jax.errors import InputError, Interrupted
from vit_jax.parallel import hosts

EXIT_INTERRUPTED = 42


def define_flags() -> flags.FlagValues:
  """The flags of a program that trains what --config says, on all processes of a job."""
  values = flags.FlagValues()
  define_config(values)
  text = lambda *about: flags.DEFINE_string(*about, flag_values=values)
  number = lambda *about: flags.DEFINE_integer(*about, flag_values=values)
  text(
    'workdir',
    None,
    'Directory for checkpoints and metrics; a run found there is resumed. '
    'Default: runs/<name of the config>. All hosts must share it; gs:// needs the package '
    'gcsfs.',
  )
  number(
    'num_devices', None, 'How many devices the whole job must have; fails when a host is missing.'
  )
  text(
    'coordinator_address',
    None,
    'host:port of process 0, where no cluster is detected: a TPU pod, GKE, SLURM, MPI.',
  )
  number('num_processes', None, 'With --coordinator_address.')
  number('process_id', None, 'With --coordinator_address.')
  number('start_timeout', 60, 'Seconds to wait for the other processes of the job.', 1)
  return values


def run(
  values: flags.FlagValues,
  argv: Sequence[str],
  about: str,
  work: Callable[[ConfigDict, pathlib.Path | epath.Path], int | None],
  *,
  last: bool = False,
) -> int:
  """Reads the command line, joins the job, does the work; returns the exit code.

  Args:
    values: of `define_flags`, and what the program adds to them.
    argv: with the program's name in front.
    about: the program, for --help.
    work: (config, workdir) -> exit code, None for 0.
    last: as for `guard`.
  """
  if '--help' in argv or '-h' in argv:
    print(about + values.get_help())
    print('\nThe fields of a config, with their meaning: vit_jax/config/fields.py')
    return 0

  def start():
    config = parse_config(values, argv)
    name = pathlib.Path(config_file(values).split(':')[0]).stem
    workdir = directory(values.workdir or os.path.join('runs', name))
    hosts.start(
      values.coordinator_address,
      values.num_processes,
      values.process_id,
      values.num_devices,
      values.start_timeout,
    )
    try:
      return work(config, workdir)
    except OSError as e:
      if e.filename:
        raise
      raise OSError(e.errno, e.strerror or str(e), str(workdir)) from e  # a write names no file

  return guard(start, last=last)


def guard(work: Callable[[], int | None], *, last: bool = False) -> int:
  """Does `work`; returns its exit code, or that of how it failed, told in one last line.

  Args:
    work: returns an exit code, None for 0.
    last: nothing else may write to stderr after that line: this process then ends.
  """
  try:
    return work() or 0
  except Interrupted:
    return EXIT_INTERRUPTED
  except InputError as e:
    message = str(e)
  except OSError as e:
    what = f'{e.filename}: ' if e.filename else ''
    message = f'{what}{e.strerror or e}; what was saved is good'
  except KeyboardInterrupt:
    message = 'quit at once; the last checkpoint is good'
  except Exception as e:
    message = hosts.lost(e) if isinstance(e, jax.errors.JaxRuntimeError) else None
    if message is None:
      traceback.print_exc()
      message = f'{type(e).__name__} in vit_jax, see above'
  stderr = sys.stderr
  if last:  # threads in the middle of a failed write have no more to say
    sys.stderr = open(os.devnull, 'w')
  print(f'error: {message}', file=stderr, flush=True)
  hosts.fail(message)
  return 1


def leave(code: int) -> NoReturn:
  """Ends the process."""
  if code == 1:
    os._exit(code)  # at once, whatever those threads wait for
  sys.exit(code)


def directory(workdir: str) -> pathlib.Path | epath.Path:
  """The path of --workdir; raises InputError for one that cannot be written."""
  if '://' not in workdir:
    return pathlib.Path(workdir).expanduser()
  try:
    return epath.Path(workdir)
  except KeyError:
    raise InputError(
      f'--workdir={workdir} is no kind of storage that can be written; give a '
      'local directory, gs:// or s3://'
    ) from None
