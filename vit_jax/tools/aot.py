"""Check before you pay for a run: does it fit a TPU slice or GPU node, and how long does it take?

  python -m vit_jax.tools.aot --config=configs/vit_h14.py --topology=v5e:16x16

This compiles the train step of the config for the slice. It needs the TPU compiler
(pip install 'vit_jax[aot]') but no TPU. The exit code is 2 if the step does not fit.
"""

from collections.abc import Sequence
import json
import sys

from absl import flags

from vit_jax.config.flags import config_file, given_fields
from vit_jax.config.no_effect import check_effect
from vit_jax.cost.plan import plan_run
from vit_jax.cost.report_text import plan_text
from vit_jax.cost.shared_flags import define_flags, parse_run
from vit_jax.errors import exit_on_error


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Run the command line and return the exit code."""
  values = define_flags(
    'Fraction of the peak rate, for the second estimate of the time: more than 0, at most 1.'
  )
  flags.DEFINE_string(
    'topology',
    'v5e:16x16',
    'The devices to compile for: v4, v5e, v5p, v6e or tpu7x with the number of chips along each '
    'axis of a slice. 2xv5e:16x16 means two slices, and h100:8 a node of eight GPUs. A chip of '
    'tpu7x is two devices.',
    flag_values=values,
  )
  argv = sys.argv if argv is None else ['aot', *argv]
  if '--help' in argv or '-h' in argv:
    print(f'{__doc__ or ""}\n{values.get_help()}')
    return 0
  config = parse_run(values, argv)
  check_effect(config, given_fields(values))
  plan = plan_run(
    config,
    values.topology,
    num_images=values.num_images,
    mfu=values.mfu,
    notify=lambda message: print(message, file=sys.stderr),
  )
  if values.json:
    print(json.dumps(plan.to_json() | {'config': config_file(values)}))
  else:
    print(plan_text(plan, config_file(values)))
  return 0 if plan.fits else 2


if __name__ == '__main__':
  sys.exit(main())
