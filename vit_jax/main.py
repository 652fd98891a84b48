"""Train a Vision Transformer: python -m vit_jax.main --config=configs/vit_b16.py --workdir=DIR

Exit code: 0 when the last step is done, 42 when stopped and saved (run the same command again to
continue), 1 on an error, which the last line explains.
"""

import sys

from absl import flags
import jax
from ml_collections import ConfigDict

from vit_jax.config.flags import given_fields, learning_rate_hint
from vit_jax.config.no_effect import check_effect
from vit_jax.config.run import has_checkpoint, keep_recorded, recorded_fields
from vit_jax.files import AnyPath
from vit_jax.training import command_line
from vit_jax.training.log import log, start_log
from vit_jax.training.loop import train


def main(argv: list[str], *, last: bool = False) -> int:
  """Run the command line `argv` and return the exit code. `last` is that of `command_line.run`."""
  values = command_line.define_flags()
  flags.DEFINE_bool(
    'resume_anyway',
    False,
    'Resume the run in the workdir although its model or its training images have changed.',
    flag_values=values,
  )

  def work(config: ConfigDict, workdir: AnyPath) -> None:
    start_log(None, jax.process_index())
    given = given_fields(values)
    for note in keep_recorded(config, workdir, given):
      log.info('%s', note)
    for note in check_effect(config, given, recorded_fields(workdir)):
      log.warning('%s', note)
    hint = learning_rate_hint(values)
    if hint and not has_checkpoint(workdir):
      log.info('%s', hint)
    train(config, workdir, resume_anyway=values.resume_anyway)

  return command_line.run(values, argv, __doc__ or '', work, last=last)


if __name__ == '__main__':
  command_line.leave(main(sys.argv, last=True))
