"""Says what a run costs: parameters, operations, memory for activations, days on accelerators.

  python -m vit_jax.tools.cost
  python -m vit_jax.tools.cost --config=configs/vit_l16.py:jft
  python -m vit_jax.tools.cost --config=configs/pretrain.py:BiT-R50x1,jft --device='TPU v3' --mfu=.3

Without --config: the models that the paper pretrained (tables 2, 5, 6), beside its own figures.
Nothing is compiled and no data set is needed. Counted are the steps of training, not evaluations;
matrix products and convolutions, a multiply-add as 2, the backward pass as two forward ones.
"""

from __future__ import annotations

from collections.abc import Sequence
import json
import sys
from typing import Any

from absl import flags
import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from vit_jax.config.checks import check_config
from vit_jax.config.flags import define_config, parse_config
from vit_jax.config.recipes import pretrain
from vit_jax.cost.estimate import PUBLISHED, Published, activation_bytes, device_days, implied_mfu
from vit_jax.errors import InputError, exit_on_error
from vit_jax.models.flops import forward_flops, train_flops
from vit_jax.parallel.devices import DEVICES, find_device
from vit_jax.tools import aot
from vit_jax.training.setup import count_steps, make_training

_MIB, _GIB, _EXA = 2**20, 2**30, 1e18
_PAPER = 'TPU v3'  # what table 2 counts the days of
_DATA = dict(imagenet2012='ImageNet', imagenet21k='ImageNet-21k', jft='JFT-300M')


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  values = _flags()
  argv = sys.argv if argv is None else ['cost', *argv]
  if '--help' in argv or '-h' in argv:
    print(__doc__ + '\n' + values.get_help())
    return 0
  config = _config(values, argv)
  if not 0 < values.mfu <= 1:
    raise InputError(
      f'--mfu={values.mfu:g} must be more than 0 and at most 1: a share of the peak, as .4'
    )
  names = check_devices(values.device)
  if config is None:
    if values.num_images:
      raise InputError('--num_images is of the data set of a --config; give that, too')
    found = paper(names or [_PAPER], values.mfu)
  else:
    found = dict(config=values['config'].config_filename) | cost(
      config, names or DEVICES, values.mfu, num_images=values.num_images
    )
  tell = tell_paper if config is None else tell_run
  print(json.dumps(found) if values.json else tell(found))
  return 0


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  define_config(values)
  flags.DEFINE_float(
    'mfu',
    0.4,
    'Share of the peak that the run is taken to reach: more than 0, at most 1.',
    flag_values=values,
  )
  flags.DEFINE_multi_string(
    'device',
    [],
    'A device, as jax names it, to tell the days of; can be '
    'given several times. Without it: all that are known, and for the '
    f"paper's models {_PAPER}.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    'num_images',
    0,
    'Training images of a data set that is neither known nor prepared here.',
    0,
    flag_values=values,
  )
  flags.DEFINE_bool('json', False, 'Print JSON instead.', flag_values=values)
  return values


def _config(values: flags.FlagValues, argv: Sequence[str]) -> ConfigDict | None:
  """The config of a command line; None where it gives none."""
  if any(x.lstrip('-').startswith('config') for x in argv[1:]):
    return parse_config(values, argv)
  try:
    rest = values(list(argv))
  except flags.Error as e:
    raise InputError(str(e)) from e
  if len(rest) > 1:
    raise InputError(f'unknown argument {rest[1]!r}; flags look like --mfu=.4')
  return None


def check_devices(names: Sequence[str]) -> list[str]:
  """Returns the names; raises InputError for one that is not known."""
  for name in names:
    if find_device(name) is None:
      raise InputError(f'unknown device {name!r}; there are {", ".join(DEVICES)}')
  return list(names)


def cost(c: ConfigDict, names: Sequence[str], mfu: float, *, num_images: int = 0) -> dict[str, Any]:
  """What the run of a config costs, as `tell_run` tells it.

  Args:
    c: the fields of `vit_jax.config.fields.default_config`.
    names: of devices, whose days are wanted.
    mfu: share of the peak that the run is taken to reach.
    num_images: in the training split; 0: as known of the data set.
  Raises:
    InputError: for what the user can mend.
  """
  check_config(c)
  num_images, num_classes = aot.size_of_data(c, num_images)
  steps = count_steps(c, num_images)
  model, objective, init, _ = make_training(c, num_classes, steps)
  state = jax.eval_shape(init)
  size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
  training = train_flops(model)
  total = training * steps * c.batch_size
  return dict(
    {
      field: c[field]
      for field in ('model', 'image_size', 'batch_size', 'accumulate', 'dtype', 'remat', 'dataset')
    },
    images=num_images,
    classes=num_classes,
    steps=steps,
    epochs=steps * c.batch_size / num_images,
    parameters=sum(x.size for x in jax.tree.leaves(state.params)),
    state_bytes=size((state.params, state.opt_state, getattr(state, 'average', ()))),
    forward_flops=forward_flops(model),
    train_flops=training,
    total_flops=total,
    activation_bytes=activation_bytes(objective, state.params, model.image_size, num_classes),
    mfu=mfu,
    device_days={x: device_days(total, find_device(x), mfu) for x in names},
    left_out=_left_out(c),
  )


def _left_out(c: ConfigDict) -> list[str]:
  """Where the count of operations is not what the run computes."""
  said = ['evaluations', 'elementwise work']
  if c.remat != 'none':
    said.append(f'what remat={c.remat!r} computes again')
  if c.pretext:
    said.append(f'the head of {c.pretext}')
  return said


def paper(names: Sequence[str], mfu: float) -> dict[str, Any]:
  """What each model that the paper pretrained costs, beside what the paper says."""
  rows = []
  for row in tqdm(PUBLISHED, 'tracing', leave=False, disable=None):
    found = cost(_recipe(row), names, mfu)
    found |= dict(data=row.data, paper_exaflops=row.exaflops, paper_core_days=row.core_days)
    if row.core_days:
      found['implied_mfu'] = implied_mfu(found['total_flops'], find_device(_PAPER), row.core_days)
    rows.append(found)
  return dict(mfu=mfu, devices=list(names), rows=rows)


def _recipe(row: Published) -> ConfigDict:
  c = pretrain(row.model, row.data)
  c.num_epochs = float(row.epochs)
  c.scan = not row.model.startswith('BiT-')  # traces one block instead of all
  return c


def tell_run(found: dict[str, Any]) -> str:
  """A report of what `cost` found."""
  at_once = found['batch_size'] // found['accumulate']
  activations = found['activation_bytes']
  again = '' if found['accumulate'] == 1 else f' (accumulate={found["accumulate"]})'
  lines = [
    f'{found["config"]}: {found["model"]}, {found["image_size"]} px, {found["dataset"]}',
    f"  parameters         {found['parameters']:,}; with the optimizer's state "
    f'{found["state_bytes"] / _GIB:.2f} GiB',
    f'  an image, forward  {found["forward_flops"] / 1e9:,.2f} GFLOPs',
    f'  an image, training {found["train_flops"] / 1e9:,.2f} GFLOPs',
    f'  activations        {activations / _MIB:,.1f} MiB an image kept for the backward pass '
    f'({found["dtype"]}, remat={found["remat"]}),',
    f'                     {activations * at_once / _GIB:,.1f} GiB for {at_once:,} at a '
    f'time{again}, over all devices',
    f'  the run            {found["steps"]:,} steps of {found["batch_size"]:,}: '
    f'{found["epochs"]:.4g} epochs of {found["images"]:,} images',
    f'                     {found["total_flops"] / _EXA:,.4g} exaFLOPs, without '
    + _join(found['left_out']),
    '',
    f'device-days at an MFU of {found["mfu"]:.0%} (of TPU v2, v3 and 7x a device is a core)',
  ]
  days = [f'{name:17}{x:>12,.4g}' for name, x in found['device_days'].items()]
  half = -(-len(days) // 2) if len(days) > 6 else len(days)
  for i, left in enumerate(days[:half]):
    lines.append('  ' + '        '.join([left, *days[half + i : half + i + 1]]))
  return '\n'.join(lines)


def _join(words: Sequence[str]) -> str:
  return ', '.join(words[:-1]) + ' and ' + words[-1] if len(words) > 1 else words[0]


def tell_paper(found: dict[str, Any]) -> str:
  """A table of what `paper` found, less than 100 columns wide with one device."""
  lines = []
  names = found['devices']
  width = max(11, *(len(name) + 1 for name in names))
  head = (
    f'{"":17}{"params":>8}{"GFLOPs/image":>16}{"activ.":>8}{"exaFLOPs":>10}{"paper":>7}'
    f'{"ratio":>7}' + ''.join(f'{name:>{width}}' for name in names) + f'{"paper":>7}{"MFU":>6}'
  )
  units = (
    f'{"model, epochs":17}{"M":>8}{"fwd":>8}{"train":>8}{"MiB":>8}{"run":>10}{"table 6":>8}'
    f'{"":6}' + f'{"days":>{width}}' * len(names) + f'{"tab. 2":>7}{"tab.2":>6}'
  )
  before = None
  for row in found['rows']:
    if row['data'] != before:
      before = row['data']
      lines += ['', f'{_DATA[before]}, {row["images"]:,} images']
    lines.append(_tell_row(row, names, width))
  return '\n'.join([head, units, *lines, '', *_notes(found)])


def _tell_row(row, names, width):
  exaflops, theirs = row['total_flops'] / _EXA, row['paper_exaflops']
  return ''.join(
    [
      f'{row["model"]:13}{row["epochs"]:4.0f}{row["parameters"] / 1e6:8.1f}',
      f'{row["forward_flops"] / 1e9:8.1f}{row["train_flops"] / 1e9:8.1f}',
      f'{row["activation_bytes"] / _MIB:8.1f}{exaflops:10,.1f}',
      f'{theirs:7,}{exaflops / theirs:7.3f}' if theirs else f'{"-":>7}{"-":>7}',
      *(f'{row["device_days"][name]:{width},.4g}' for name in names),
      f'{row["paper_core_days"]:7,}{row["implied_mfu"]:6.1%}'
      if 'implied_mfu' in row
      else f'{"-":>7}{"-":>6}',
    ]
  )


def _notes(found):
  return [
    f'days: of one device at an MFU of {found["mfu"]:.0%}; "{_PAPER}" is one of the two cores of '
    'a chip, as in table 2.',
    "MFU: what our exaFLOPs and table 2's TPUv3-core-days imply, of a core's peak of 61.5 TFLOP/s.",
    'exaFLOPs: 3 forward passes an image, a multiply-add as 2, without elementwise work and '
    'evaluations.',
    'activ.: kept of an image for the backward pass in bfloat16, as traced; a compiler may keep '
    'less.',
  ]


if __name__ == '__main__':
  sys.exit(main())
