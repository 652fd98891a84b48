"""Write plans and estimates as text."""

from collections.abc import Sequence

from vit_jax.cost.estimate import RunCost
from vit_jax.cost.plan import Fit, Misfit, Plan
from vit_jax.cost.published import PAPER_DEVICE, PublishedCost
from vit_jax.cost.step_speed import StepSpeed
from vit_jax.parallel.devices import find_interconnect

_MIB, _GIB, _EXA = 2**20, 2**30, 1e18
_DATASET_NAMES = {'imagenet2012': 'ImageNet', 'imagenet21k': 'ImageNet-21k', 'jft': 'JFT-300M'}


def plan_text(plan: Plan, config_file: str) -> str:
  """Return a report on a plan whose config came from `config_file`."""
  data, fsdp = plan.mesh
  count = f'{plan.chips} x {plan.kind}'
  if plan.devices != plan.chips:
    count += f' of {plan.devices // plan.chips} devices each,'
  mesh = f'{plan.topology}: {count} as a mesh of {data} (data) x {fsdp} (fsdp).'
  if plan.parallel == 'pmap':
    mesh += ' parallel=pmap splits the data in the same way.'
  lines = [
    f'{config_file}: {plan.model}, {plan.parameters:,} parameters, batch_size={plan.batch_size} '
    f'remat={plan.remat} scan={plan.scan} accumulate={plan.accumulate} '
    f'moment_dtype={plan.moment_dtype}',
    mesh,
    '',
  ]
  unit = 'chip' if plan.devices == plan.chips else 'device'
  if isinstance(plan.outcome, Misfit):
    lines += _misfit(plan.outcome, unit)
  else:
    lines += [
      *_memory(plan.outcome, plan.available, unit),
      '',
      *_collectives(plan.outcome.speed, unit),
      '',
      *_step(plan.outcome.speed, unit),
      *_caveats(plan, plan.outcome.speed),
      '',
      *_run(plan, plan.outcome.speed),
    ]
  return '\n'.join(lines)


def _misfit(misfit: Misfit, unit: str) -> list[str]:
  state = misfit.state.parameters + misfit.state.moments
  return [
    f'The step does not fit: {misfit.why} on each {unit}.',
    f'Parameters and moments take {state / _GIB:.2f} GiB of it.',
    '',
    'Change one or more of these:',
    *(f'  {line}' for line in misfit.advice),
  ]


def _memory(fit: Fit, available: float, unit: str) -> list[str]:
  total = fit.memory.total
  return [
    f'The step fits: it takes {total / _GIB:.2f} of {available / _GIB:.2f} GiB on each {unit} '
    f'(compiled in {fit.compile_seconds:.0f} s).',
    *(
      f'  {kind.replace("_", " "):18}{size / _GIB:8.3f} GiB'
      for kind, size in fit.memory._asdict().items()
    ),
  ]


def _collectives(speed: StepSpeed, unit: str) -> list[str]:
  return [
    f'collectives per step    channels   times   received by each {unit}',
    *(
      f'  {kind:20}{x.channels:10}{x.times:8}{x.bytes / _GIB:16.3f} GiB'
      for kind, x in speed.collectives.items()
    ),
  ]


def _step(speed: StepSpeed, unit: str) -> list[str]:
  recomputed = speed.computed_flops / speed.flops - 1
  remat = f', plus {recomputed:.0%} that remat recomputes' if recomputed else ''
  limits = ', '.join(
    f'{name} {seconds:.3f} s' for name, seconds in speed.roofline._asdict().items()
  )
  cycles = (
    f'The compiler estimates {speed.estimated_cycles:.2e} cycles for the kernels of each {unit}.'
  )
  return [
    f'A step computes {speed.flops:.3e} FLOPs{remat}.',
    f'Each {unit} computes {speed.vector_operations:.3e} vector operations besides matrix '
    'products.',
    f'Each {unit} moves {speed.memory_traffic / 1e9:.1f} GB to and from its memory.',
    f'A step takes at least: {limits}. The bound is {speed.roofline.bound}, which allows an MFU of '
    f'{speed.mfu_bound:.0%}.',
    *([cycles] if speed.estimated_cycles else []),
  ]


def _caveats(plan: Plan, speed: StepSpeed) -> list[str]:
  """Return what the bounds do not account for."""
  lines = []
  if speed.unknown_loops:
    lines.append(f'{speed.unknown_loops} loops of unknown length are counted as one turn each.')
  if speed.custom_kernels:
    lines.append(f'The vector operations of {speed.custom_kernels} custom kernels are not counted.')
  if 'ViT' in plan.model and ('TPU' in plan.kind or plan.remat == 'dots'):
    lines.append(
      'The compute bound leaves out the products of attention that are computed twice: q k^T by '
      'attention by head, the default on TPUs, and others by remat=dots.'
    )
  interconnect = find_interconnect(plan.kind)
  has_slices = 'x' in plan.topology.split(':')[0]
  if has_slices and interconnect and interconnect.network is None:
    lines.append(
      f'The network between slices of {plan.kind} is left out, because its speed is not published.'
    )
  if 'TPU' not in plan.kind:
    lines.append(
      'Without a GPU, the compiler cannot time kernels to choose among them. A run may use other '
      "kernels, which mostly move less. Attention is 'plain' here, where a run in bfloat16 uses "
      "cuDNN's, which takes less memory."
    )
  return lines


def _run(plan: Plan, speed: StepSpeed) -> list[str]:
  def line(assumption: str, seconds: float) -> str:
    hours = plan.steps * seconds / 3600
    return (
      f'  {assumption}: {seconds:.3f} s per step, {hours / 24:.2f} days, '
      f'{hours * plan.chips:,.0f} chip-hours'
    )

  at_mfu = f'  An MFU of {speed.mfu:.0%} is out of reach of this program.'
  if speed.mfu <= speed.mfu_bound:
    at_mfu = line(f'at an MFU of {speed.mfu:.0%}', speed.seconds_at_mfu)
  return [
    f'The run takes {run_length(plan.steps, plan.batch_size, plan.images)}:',
    line('at that bound, which no run reaches', speed.roofline.seconds),
    at_mfu,
  ]


def run_length(steps: int, batch_size: int, images: int) -> str:
  """Return '93,841 steps of 4,096 images (300 epochs of 1,281,167 images)'."""
  epochs = steps * batch_size / images
  return f'{steps:,} steps of {batch_size:,} images ({epochs:.4g} epochs of {images:,} images)'


def run_text(cost: RunCost, config_file: str) -> str:
  """Return a report on the cost of a run whose config came from `config_file`."""
  per_pass = cost.batch_size // cost.accumulate
  activations = cost.activation_bytes
  accumulate = '' if cost.accumulate == 1 else f' (accumulate={cost.accumulate})'
  lines = [
    f'{config_file}: {cost.model}, {cost.image_size} px, {cost.dataset}',
    f'  parameters     {cost.parameters:,} ({cost.state_bytes / _GIB:.2f} GiB with the optimizer '
    'state)',
    f'  forward pass   {cost.forward_flops / 1e9:,.2f} GFLOPs per image',
    f'  training       {cost.train_flops / 1e9:,.2f} GFLOPs per image',
    f'  activations    {activations / _MIB:,.1f} MiB per image, kept for the backward pass '
    f'({cost.dtype}, remat={cost.remat})',
    f'                 {activations * per_pass / _GIB:,.1f} GiB for {per_pass:,} images at a time'
    f'{accumulate}, over all devices',
    f'  run            {run_length(cost.steps, cost.batch_size, cost.images)}',
    f'                 {cost.total_flops / _EXA:,.4g} exaFLOPs, without {_join(cost.left_out)}',
    '',
    f'device-days at an MFU of {cost.mfu:.0%} (a device of TPU v2, v3 and 7x is one core)',
  ]
  return '\n'.join(lines + _days(cost.device_days))


def _days(device_days: dict[str, float]) -> list[str]:
  """Return the days of each device, in two columns if there are many."""
  entries = [f'{name:17}{days:>12,.4g}' for name, days in device_days.items()]
  rows = -(-len(entries) // 2) if len(entries) > 6 else len(entries)
  return ['  ' + '        '.join(entries[row::rows]) for row in range(rows)]


def _join(words: Sequence[str]) -> str:
  return ', '.join(words[:-1]) + ' and ' + words[-1] if len(words) > 1 else words[0]


def published_text(costs: Sequence[PublishedCost], devices: Sequence[str], mfu: float) -> str:
  """Return a table of the paper's models, less than 100 columns wide with one device."""
  width = max(11, *(len(name) + 1 for name in devices))
  lines = _heading(devices, width)
  data = None
  for row in costs:
    if row.published.data != data:
      data = row.published.data
      lines += ['', f'{_DATASET_NAMES[data]}, {row.cost.images:,} images']
    lines.append(_row(row, devices, width))
  return '\n'.join([*lines, '', *_notes(mfu)])


def _heading(devices: Sequence[str], width: int) -> list[str]:
  return [
    f'{"":17}{"params":>8}{"GFLOPs/image":>16}{"activ.":>8}{"exaFLOPs":>10}{"paper":>7}{"ratio":>7}'
    + ''.join(f'{name:>{width}}' for name in devices)
    + f'{"paper":>7}{"MFU":>6}',
    f'{"model, epochs":17}{"M":>8}{"fwd":>8}{"train":>8}{"MiB":>8}{"run":>10}{"table 6":>8}{"":6}'
    + f'{"days":>{width}}' * len(devices)
    + f'{"tab. 2":>7}{"tab.2":>6}',
  ]


def _row(row: PublishedCost, devices: Sequence[str], width: int) -> str:
  cost, published = row.cost, row.published
  exaflops = cost.total_flops / _EXA
  ratio = days = mfu = '-'
  paper_exaflops = '-'
  if published.exaflops:
    paper_exaflops, ratio = f'{published.exaflops:,}', f'{exaflops / published.exaflops:.3f}'
  if row.implied_mfu is not None:
    days, mfu = f'{published.core_days:,}', f'{row.implied_mfu:.1%}'
  return ''.join(
    [
      f'{cost.model:13}{cost.epochs:4.0f}{cost.parameters / 1e6:8.1f}',
      f'{cost.forward_flops / 1e9:8.1f}{cost.train_flops / 1e9:8.1f}',
      f'{cost.activation_bytes / _MIB:8.1f}{exaflops:10,.1f}',
      f'{paper_exaflops:>7}{ratio:>7}',
      *(f'{cost.device_days[name]:{width},.4g}' for name in devices),
      f'{days:>7}{mfu:>6}',
    ]
  )


def _notes(mfu: float) -> list[str]:
  return [
    f'days: of one device at an MFU of {mfu:.0%}. A "{PAPER_DEVICE}" is one of the two cores of a '
    'chip, as in table 2.',
    'MFU: the fraction of the peak of a TPU v3 core, 61.5 TFLOP/s, that our exaFLOPs and the days',
    'of table 2 imply.',
    'exaFLOPs: three forward passes per image, without elementwise work and evaluations. A '
    'multiply-add',
    'counts as 2.',
    'activ.: what the traced program keeps of an image for the backward pass, in bfloat16 and with',
    'plain attention. A compiler may keep less.',
  ]
