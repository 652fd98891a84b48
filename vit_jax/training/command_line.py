"""Command line shared by main, sweep and vtab: flags, exit codes, error messages.

Exit codes: 0 when everything is done, 42 when stopped and saved (run the same command again to
continue), 1 on an error, which the last line explains.
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
from vit_jax.errors import InputError, Interrupted, print_any_text
from vit_jax.files import AnyPath, user_path
from vit_jax.parallel import hosts
from vit_jax.parallel.preemption import stop_on_signals

EXIT_INTERRUPTED = 42


def define_flags() -> flags.FlagValues:
  """Return the flags of a program that trains a config on all processes of a job."""
  values = flags.FlagValues()
  define_config(values)
  flags.DEFINE_string(
    'workdir',
    None,
    'Directory for checkpoints and metrics. A run found there is resumed. All hosts must share it. '
    'gs:// needs the package gcsfs. Default: runs/<name of the config>.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'num_devices',
    None,
    'Number of devices that the whole job must have. Training fails early when a host is missing.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'coordinator_address',
    None,
    'host:port of process 0. Not needed on TPU pods, GKE, SLURM and MPI, which are detected.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'num_processes',
    None,
    'Number of processes of the job, with --coordinator_address.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'process_id',
    None,
    'Number of this process, counted from 0, with --coordinator_address.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'start_timeout',
    60,
    'Seconds to wait for the other processes of the job.',
    lower_bound=1,
    flag_values=values,
  )
  return values


def run(
  values: flags.FlagValues,
  argv: Sequence[str],
  description: str,
  work: Callable[[ConfigDict, AnyPath], int | None],
  *,
  last: bool = False,
) -> int:
  """Read the command line, join the job and do the work. Return the exit code.

  Args:
    values: the flags of `define_flags` and those that the program adds to them.
    argv: the command line, starting with the name of the program.
    description: the first lines of --help.
    work: (config, workdir) -> exit code, or None for 0.
    last: see `exit_code`.
  """
  if '--help' in argv or '-h' in argv:
    print(description + values.get_help())
    print('\nvit_jax/config/fields.py lists the fields of a config and their meaning.')
    return 0

  def start() -> int | None:
    config = parse_config(values, argv)
    name = pathlib.Path(config_file(values).split(':')[0]).stem
    workdir = workdir_path(values.workdir or os.path.join('runs', name))
    hosts.start(
      values.coordinator_address,
      values.num_processes,
      values.process_id,
      values.num_devices,
      values.start_timeout,
    )
    try:
      with stop_on_signals():
        return work(config, workdir)
    except OSError as e:
      if e.filename:
        raise
      # The error of a failed write does not name the file, so name the workdir.
      raise OSError(e.errno, e.strerror or str(e), str(workdir)) from e

  return exit_code(start, last=last)


def exit_code(work: Callable[[], int | None], *, last: bool = False) -> int:
  """Do the work and return its exit code. If it fails, print one line that says why.

  Args:
    work: returns an exit code, or None for 0.
    last: the process ends after this. Background threads then print nothing after that line.
  """
  print_any_text()
  try:
    return work() or 0
  except Interrupted:
    return EXIT_INTERRUPTED
  except InputError as e:
    message = str(e)
  except OSError as e:
    file = f'{e.filename}: ' if e.filename else ''
    message = f'{file}{e.strerror or e}. What was saved before is good.'
  except KeyboardInterrupt:
    message = 'Stopped at once, without saving. The last checkpoint is good.'
  except Exception as e:
    message = hosts.explain_remote_failure(e) if isinstance(e, jax.errors.JaxRuntimeError) else None
    if message is None:
      traceback.print_exc()
      message = f'{type(e).__name__} in vit_jax. See the traceback above.'
  stderr = sys.stderr
  if last:
    sys.stderr = open(os.devnull, 'w')  # noqa: SIM115 (stays open until the process ends)
  print(f'error: {message}', file=stderr, flush=True)
  hosts.fail(message)
  return 1


def leave(code: int) -> NoReturn:
  """End the process with an exit code."""
  if code == 1:
    os._exit(code)  # at once: a background thread may wait for something that never comes
  sys.exit(code)


def workdir_path(workdir: str) -> AnyPath:
  """Return the path of --workdir.

  Raises:
    InputError: it is on a kind of storage that cannot be written.
  """
  if '://' not in workdir:
    return user_path(workdir)
  try:
    return epath.Path(workdir)
  except KeyError:
    raise InputError(
      f'--workdir={workdir} cannot be written. Give a local directory, gs:// or s3://.'
    ) from None
