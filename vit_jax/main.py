"""Trains a Vision Transformer: python -m vit_jax.main --config=configs/vit_b16.py --workdir=DIR

Exit code: 0 when the last step is done, 42 when stopped and saved (run the same command
again to go on), 1 on an error, named in the last line.
"""

import os
import pathlib
import sys
import traceback

from absl import flags
from etils import epath
import jax

from vit_jax import config_args
from vit_jax import hosts
from vit_jax import train
from vit_jax.errors import InputError, Interrupted

EXIT_INTERRUPTED = 42

config_args.define(flags.FLAGS)
flags.declare_key_flag('config')
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Directory for checkpoints and metrics; a run found there is resumed. '
    'Default: runs/<name of the config>. All hosts must share it; gs:// needs the package gcsfs.')
_NUM_DEVICES = flags.DEFINE_integer(
    'num_devices', None, 'How many devices the whole job must have; fails when a host is missing.')
_COORDINATOR = flags.DEFINE_string(
    'coordinator_address', None, 'host:port of process 0, where no cluster is detected: a TPU pod, '
    'GKE, SLURM, MPI.')
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'With --coordinator_address.')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'With --coordinator_address.')
_START_TIMEOUT = flags.DEFINE_integer(
    'start_timeout', 60, 'Seconds to wait for the other processes of the job.', lower_bound=1)


def main(argv: list[str]) -> int:
  """Runs the command line `argv` and returns the exit code."""
  workdir = None
  try:
    config, workdir = _parse(argv)
    hosts.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, _NUM_DEVICES.value,
                _START_TIMEOUT.value)
    train.train(config, workdir)
  except InputError as e:
    return _fail(str(e))
  except OSError as e:
    return _fail(f'{e.filename or workdir}: {e.strerror or e}; what was saved is good')
  except Interrupted:
    return EXIT_INTERRUPTED
  except KeyboardInterrupt:
    return _fail('quit at once; the last checkpoint is good')
  except Exception as e:
    if isinstance(e, jax.errors.JaxRuntimeError) and (why := hosts.lost(e)):
      return _fail(why)
    traceback.print_exc()
    return _fail(f'{type(e).__name__} in vit_jax, see above')
  return 0


def _parse(argv):
  """Flags -> (config, workdir); what is wrong with them becomes one sentence."""
  if '--help' in argv or '-h' in argv:
    print(__doc__ + flags.FLAGS.module_help(sys.modules[__name__]))
    print('\nThe fields of a config, with their meaning: vit_jax/config.py')
    sys.exit(0)
  config = config_args.parse(flags.FLAGS, argv)
  name = flags.FLAGS['config'].config_filename.split(':')[0]
  workdir = _WORKDIR.value or os.path.join('runs', pathlib.Path(name).stem)
  return config, _directory(workdir)


def _directory(workdir):
  if '://' not in workdir:
    return pathlib.Path(workdir).expanduser()
  try:
    return epath.Path(workdir)
  except KeyError:
    raise InputError(f'--workdir={workdir} is no kind of storage that can be written; give a '
                     'local directory, gs:// or s3://') from None


def _fail(message):
  stderr = sys.stderr
  if __name__ == '__main__':  # threads in the middle of a failed write have no more to say
    sys.stderr = open(os.devnull, 'w')
  print(f'error: {message}', file=stderr, flush=True)
  hosts.fail(message)
  return 1


if __name__ == '__main__':
  code = main(sys.argv)
  if code == 1:
    os._exit(code)  # at once, whatever those threads wait for
  sys.exit(code)
