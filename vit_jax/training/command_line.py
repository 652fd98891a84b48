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
from vit_jax.errors import InputError, Interrupted, explain, prepare_command, printing, say
from vit_jax.files import AnyPath, user_path
from vit_jax.parallel import coordination, hosts
from vit_jax.parallel.allocator import keep_freed_memory
from vit_jax.parallel.preemption import stop_on_signals

EXIT_INTERRUPTED = 42
_LESS_MEMORY = (
  'To use less, add --config.accumulate=2 (or more), --config.remat=full, --config.scan=True or '
  '--config.moment_dtype=bfloat16, shard the parameters with --config.parallel=mesh '
  '--config.mesh=1,0, or set a smaller --config.batch_size. vit_jax.tools.aot tells what fits.'
)


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

  def start() -> int | None:
    if '--help' in argv or '-h' in argv:
      print(description + values.get_help())
      print('\nvit_jax/config/fields.py lists the fields of a config and their meaning.')
      return 0
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
      with stop_on_signals(), printing():
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
  try:
    prepare_command()
    keep_freed_memory()
    with printing():
      return work() or 0
    return 0
  except Interrupted:
    return EXIT_INTERRUPTED
  except KeyboardInterrupt:
    message = 'Stopped at once, without saving. The last checkpoint is good.'
  except Exception as e:
    message = _explain(e)
    if message is None:
      traceback.print_exc()
      message = f'{type(e).__name__} in vit_jax. See the traceback above.'
  stderr = sys.stderr
  if last:
    sys.stderr = open(os.devnull, 'w')  # noqa: SIM115 (stays open until the process ends)
  say(f'error: {message}', stderr)
  hosts.fail(message)
  return 1


def _explain(error: Exception) -> str | None:
  """Return in one line why the program failed, or None if it is its own fault."""
  message = explain(error, _LESS_MEMORY)
  if isinstance(error, OSError) and message is not None:
    return f'{message} What was saved before is good.'
  if message is None and isinstance(error, jax.errors.JaxRuntimeError):
    return hosts.explain_remote_failure(error)
  return message


def leave(code: int) -> NoReturn:
  """End the process with an exit code."""
  if code == 1 or (code == EXIT_INTERRUPTED and coordination.alone()):
    # At once: a background thread may still compile, or wait for something that never comes.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
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
