"""Estimate what a run costs: parameters, operations, activation memory, days on accelerators.

  python -m vit_jax.tools.cost
  python -m vit_jax.tools.cost --config=configs/vit_l16.py:jft
  python -m vit_jax.tools.cost --config=configs/pretrain.py:BiT-R50x1,jft --device='TPU v3' --mfu=.3

Without --config, it prints the models that the paper pretrained (tables 2, 5 and 6) beside the
paper's own figures. Nothing is compiled and no dataset is needed. The operations are the matrix
products and convolutions of training, without evaluations. A multiply-add counts as 2, and the
backward pass as two forward passes. The memory of activations is that of
--config.attention_implementation=plain if the config does not set another. by_head, the default on
TPUs, and cudnn, that on NVIDIA GPUs in bfloat16, keep less.
"""

from collections.abc import Sequence
import json
import sys

from absl import flags

from vit_jax.config.flags import config_file, given_fields
from vit_jax.config.no_effect import check_effect
from vit_jax.cost.estimate import estimate_run, get_device
from vit_jax.cost.published import PAPER_DEVICE, published_costs
from vit_jax.cost.report_text import published_text, run_text
from vit_jax.cost.shared_flags import define_flags, parse_optional_run
from vit_jax.errors import InputError, exit_on_error
from vit_jax.parallel.devices import DEVICES


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Run the command line and return the exit code."""
  values = define_flags(
    'Fraction of the peak rate that the run is assumed to reach: more than 0, at most 1.'
  )
  flags.DEFINE_multi_string(
    'device',
    [],
    'A device to give the days of, as JAX names it. You can repeat this flag. The default is all '
    f"known devices, and {PAPER_DEVICE} for the paper's models.",
    flag_values=values,
  )
  argv = sys.argv if argv is None else ['cost', *argv]
  if '--help' in argv or '-h' in argv:
    print(f'{__doc__ or ""}\n{values.get_help()}')
    return 0
  config = parse_optional_run(values, argv)
  for name in values.device:
    get_device(name)  # an unknown name is an error before the work begins
  if config is None:
    if values.num_images:
      raise InputError('--num_images needs a --config. It counts the images of its dataset.')
    devices = values.device or [PAPER_DEVICE]
    costs = published_costs(devices, values.mfu)
    rows = [row.to_json() for row in costs]
    as_json = {'mfu': values.mfu, 'devices': devices, 'rows': rows}
    print(json.dumps(as_json) if values.json else published_text(costs, devices, values.mfu))
    return 0
  check_effect(config, given_fields(values))
  cost = estimate_run(
    config, values.device or list(DEVICES), values.mfu, num_images=values.num_images
  )
  if values.json:
    print(json.dumps({'config': config_file(values)} | cost.to_json()))
  else:
    print(run_text(cost, config_file(values)))
  return 0


if __name__ == '__main__':
  sys.exit(main())
