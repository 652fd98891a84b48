"""Trains a Vision Transformer: python -m vit_jax.main --config=configs/vit_b16.py --workdir=DIR

Exit code: 0 when the last step is done, 42 when stopped and saved (run the same command
again to go on), 1 on an error, named in the last line.
"""

import sys

from vit_jax.training import command_line
from vit_jax.training.loop import train


def main(argv: list[str], *, last: bool = False) -> int:
  """Runs the command line `argv` and returns the exit code; `last` as for `program.guard`."""

  def work(config, workdir):
    train(config, workdir)

  return command_line.run(command_line.define_flags(), argv, __doc__, work, last=last)


if __name__ == '__main__':
  command_line.leave(main(sys.argv, last=True))
