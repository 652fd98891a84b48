"""Says before anything is paid for whether a run fits a TPU slice, and how long it takes at least.

  python -m vit_jax.tools.aot --config=configs/vit_h14.py --topology=v5e:16x16

The config's own train step is compiled for the slice by the TPU compiler (pip install
'vit_jax[aot]'), which needs no TPU.
"""

from __future__ import annotations

from collections.abc import Sequence
import json
import sys
from typing import Any

from absl import flags
import jax
from ml_collections import ConfigDict

from vit_jax.config.checks import check_config
from vit_jax.config.flags import define_config, parse_config
from vit_jax.cost import compile_step
from vit_jax.cost.hlo import KINDS, read_program
from vit_jax.cost.roofline import roofline
from vit_jax.cost.topology import Topology, describe_devices, parse_topology
from vit_jax.data import catalog
from vit_jax.data.open_source import describe_dataset, open_source
from vit_jax.errors import InputError, exit_on_error
from vit_jax.models.flops import train_flops
from vit_jax.parallel.devices import find_device, find_interconnect
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.training.setup import count_steps, make_training

_GIB = 2**30
_JFT = 303_000_000, 18_291  # images and classes of JFT-300M, which nobody else has


@exit_on_error
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code: 2 when the step does not fit."""
  values = _flags()
  argv = sys.argv if argv is None else ['aot', *argv]
  if '--help' in argv or '-h' in argv:
    print(__doc__ + '\n' + values.get_help())
    return 0
  config = parse_config(values, argv)
  found = plan(config, values.topology, num_images=values.num_images, mfu=values.mfu)
  found['config'] = values['config'].config_filename
  print(json.dumps(found) if values.json else tell(found))
  return 0 if found['fits'] else 2


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  define_config(values)
  flags.DEFINE_string(
    'topology',
    'v5e:16x16',
    'What to compile for: v4, v5e, v5p or v6e, and the '
    'chips along the axes of a slice; 2xv5e:16x16 are two slices.',
    flag_values=values,
  )
  flags.DEFINE_float(
    'mfu',
    0.4,
    'Share of the peak that the run is taken to reach, for the second estimate of its length.',
    0.01,
    1.0,
    flag_values=values,
  )
  flags.DEFINE_integer(
    'num_images',
    0,
    'Training images of a data set that is neither known nor prepared here.',
    0,
    flag_values=values,
  )
  flags.DEFINE_bool('json', False, 'Print one JSON object instead.', flag_values=values)
  return values


def plan(c: ConfigDict, word: str, *, num_images: int = 0, mfu: float = 0.4) -> dict[str, Any]:
  """Compiles a config's train step for a topology; returns what it needs, as `tell` tells it.

  Args:
    c: the fields of `vit_jax.config.fields.default_config`.
    word: as for parse_topology.
    num_images: in the training split; 0: as known of the data set.
    mfu: share of the peak, for the second estimate of the time.
  Raises:
    InputError: for what the user can mend.
  """
  check_config(c)
  topology = parse_topology(word)
  num_images, num_classes = size_of_data(c, num_images)
  total_steps = count_steps(c, num_images)
  jax.config.update('jax_platforms', 'cpu')  # where this tool itself computes
  devices = describe_devices(topology)
  partitioner = MeshPartitioner(
    c.batch_size, c.accumulate, c.mesh if c.parallel == 'mesh' else (0, 1), devices
  )
  model, _, init, step = make_training(c, num_classes, total_steps)
  state = jax.eval_shape(init)
  available = find_device(topology.kind).memory
  found = dict(
    {
      field: c[field]
      for field in (
        'model',
        'batch_size',
        'parallel',
        'remat',
        'scan',
        'accumulate',
        'moment_dtype',
      )
    },
    topology=word,
    chips=topology.num_chips,
    kind=topology.kind,
    steps=total_steps,
    images=num_images,
    mesh=list(partitioner.mesh.devices.shape),
    available=available,
    parameters=sum(x.size for x in jax.tree.leaves(state.params)),
  )
  print(
    f'compiling the step for {topology.num_chips} chips'
    + (
      ''
      if c.scan
      else '; --config.scan=True compiles one block instead of all, in a fraction of the time'
    ),
    file=sys.stderr,
  )
  try:
    compiled, memory, seconds = compile_step.compile_step(
      partitioner, step, state, c.image_size, c.batch_size, available, topology.compiler_options
    )
  except compile_step.OutOfMemory as e:
    parameters, moments, _ = compile_step.state_bytes(partitioner.like(state))
    return found | dict(
      fits=False,
      why=str(e),
      memory=dict(parameters=parameters, moments=moments),
      advice=compile_step.advice(
        mesh=found['mesh'],
        state=parameters + moments,
        available=available,
        remat=c.remat,
        scan=c.scan,
        batch_size=c.batch_size,
        accumulate=c.accumulate,
        moment_dtype=c.moment_dtype,
      ),
    )
  found |= dict(
    fits=True, compile_seconds=seconds, memory=memory._asdict() | dict(total=memory.total)
  )
  return found | speed(
    compiled.as_text(),
    topology,
    list(partitioner.mesh.devices.flat),
    flops=train_flops(model) * c.batch_size,
    remat=c.remat,
    mfu=mfu,
  )


def speed(
  text: str,
  topology: Topology,
  devices: Sequence[jax.Device],
  *,
  flops: float,
  remat: str,
  mfu: float,
) -> dict[str, Any]:
  """What a step computes and moves, and how long that takes at least.

  Args:
    text: of the compiled program.
    topology, devices: in the order of the mesh.
    flops: of the model, a step.
    remat: the config's field.
    mfu: share of the peak, for the second estimate of the time.
  """
  device, program = find_device(topology.kind), read_program(text, len(devices))
  # The blocks' forward pass, a quarter of what is then computed, comes twice.
  computed = flops * 4 / 3 if remat == 'full' else flops
  terms = roofline(
    flops=computed,
    memory_bytes=program.memory_bytes,
    collectives=program.collectives,
    topology=topology,
    devices=devices,
    device=device,
    wires=find_interconnect(topology.kind),
  )
  kinds = {kind: [x for x in program.collectives if x.kind == kind] for kind in KINDS}
  at_peak = flops / (len(devices) * device.flops)
  return dict(
    collectives={
      kind: dict(
        channels=len(found),
        times=sum(x.times for x in found),
        bytes=sum(x.times * x.moved for x in found),
      )
      for kind, found in kinds.items()
      if found
    },
    memory_traffic=program.memory_bytes,
    unknown_loops=program.unknown_loops,
    flops=flops,
    computed_flops=computed,
    roofline=terms._asdict(),
    seconds=terms.seconds,
    bound=terms.bound,
    mfu=mfu,
    mfu_bound=at_peak / terms.seconds,
    seconds_at_mfu=at_peak / mfu,
  )


def size_of_data(c: ConfigDict, num_images: int) -> tuple[int, int]:
  """(training images, classes) of a config's data set, which need not be here."""
  images, classes = _JFT if c.dataset == 'jft_300m' else (None, None)
  about = catalog.lookup(c.dataset)
  if about:
    images, classes = about.count(c.train_split or about.train_split), about.num_classes
  if not (num_images or images) or not (c.num_classes or classes):
    try:
      about = describe_dataset(c.dataset, c.data_dir)
      source = open_source(c.dataset, c.train_split or about.train_split, c.data_dir)
    except InputError as e:
      raise InputError(f'{e}; or give --num_images and --config.num_classes') from e
    images, classes = len(source), source.num_classes
  return num_images or images, c.num_classes or classes


def tell(found: dict[str, Any]) -> str:
  """A report of what `plan` found."""
  data, fsdp = found['mesh']
  lines = [
    f'{found["config"]}: {found["model"]}, {found["parameters"]:,} parameters; batch_size='
    f'{found["batch_size"]} remat={found["remat"]} scan={found["scan"]} accumulate='
    f'{found["accumulate"]} moment_dtype={found["moment_dtype"]}',
    f'{found["topology"]}: {found["chips"]} x {found["kind"]}, a mesh of {data} (data) x '
    f'{fsdp} (fsdp)'
    + ('; parallel=pmap is the same data parallelism' if found['parallel'] == 'pmap' else ''),
    '',
  ]
  memory = found['memory']
  if not found['fits']:
    state = (memory['parameters'] + memory['moments']) / _GIB
    return '\n'.join(
      [
        *lines,
        f'does not fit: {found["why"]} on each chip',
        f'of which parameters and moments are {state:.2f} GiB',
        '',
        'what to change, one or more of:',
        *(f'  {line}' for line in found['advice']),
      ]
    )
  lines.append(
    f'fits: {memory["total"] / _GIB:.2f} of {found["available"] / _GIB:.2f} GiB on each '
    f'chip (compiled in {found["compile_seconds"]:.0f} s)'
  )
  lines += [
    f'  {kind.replace("_", " "):18}{n / _GIB:8.3f} GiB'
    for kind, n in memory.items()
    if kind != 'total'
  ]
  return '\n'.join(lines + _tell_speed(found) + _tell_run(found))


def _tell_speed(found):
  lines = ['', 'collectives of a step   channels   times   received by each chip']
  lines += [
    f'  {kind:20}{x["channels"]:10}{x["times"]:8}{x["bytes"] / _GIB:16.3f} GiB'
    for kind, x in found['collectives'].items()
  ]
  again = found['computed_flops'] / found['flops']
  terms = ', '.join(f'{name} {seconds:.3f}' for name, seconds in found['roofline'].items())
  lines += [
    '',
    f'a step: {found["flops"]:.3e} FLOPs of the model'
    + (f' and {again - 1:.0%} more for remat' if again > 1 else '')
    + f'; {found["memory_traffic"] / 1e9:.1f} GB to and from the memory of each chip',
    f'seconds at least: {terms}; bound by {found["bound"]}, MFU at most {found["mfu_bound"]:.0%}',
  ]
  if found['unknown_loops']:
    lines.append(f'{found["unknown_loops"]} loops of unknown length are counted once')
  if find_interconnect(found['kind']).network is None and 'x' in found['topology'].split(':')[0]:
    lines.append(f'the network between slices of {found["kind"]} is not published: left out')
  if 'TPU' not in found['kind']:
    lines.append(
      'no GPU was there to choose kernels by their time: a run may use others, which '
      'mostly move less'
    )
  return lines


def _tell_run(found):
  lines = [
    '',
    f'the run: {found["steps"]:,} steps, '
    f'{found["steps"] * found["batch_size"] / found["images"]:.4g} epochs of '
    f'{found["images"]:,} images',
  ]
  for what, seconds in (
    ('the roofline, a bound that no run reaches', found['seconds']),
    (f'an MFU of {found["mfu"]:.0%}', found['seconds_at_mfu']),
  ):
    hours = found['steps'] * seconds / 3600
    lines.append(
      f'  at {what}: {seconds:.3f} s a step, {hours / 24:.2f} days, '
      f'{hours * found["chips"]:,.0f} chip-hours'
    )
  if found['mfu'] > found['mfu_bound']:
    lines[-1] = f'  an MFU of {found["mfu"]:.0%} is out of reach of this program'
  return lines


if __name__ == '__main__':
  sys.exit(main())
