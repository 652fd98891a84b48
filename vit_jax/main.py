"""Train a Vision Transformer: python -m vit_jax.main --config=configs/vit_b16.py --workdir=DIR

Exit code: 0 when the last step is done, 42 when stopped and saved (run the same command again to
continue), 1 on an error, which the last line explains.
"""

import sys

import jax
from ml_collections import ConfigDict

from vit_jax.config.flags import given_fields
from vit_jax.config.run import keep_recorded
from vit_jax.files import AnyPath
from vit_jax.training import command_line
from vit_jax.training.log import log, start_log
from vit_jax.training.loop import train


def main(argv: list[str], *, last: bool = False) -> int:
  """Run the command line `argv` and return the exit code. `last` is that of `command_line.run`."""
  values = command_line.define_flags()

  def work(config: ConfigDict, workdir: AnyPath) -> None:
    start_log(None, jax.process_index())
    for note in keep_recorded(config, workdir, given_fields(values)):
      log.info('%s', note)
    train(config, workdir)

  return command_line.run(values, argv, __doc__ or '', work, last=last)


if __name__ == '__main__':
  command_line.leave(main(sys.argv, last=True))
