"""The text of reports, word for word."""

import dataclasses

import pytest

from tests.helpers.plans import FIT, MISFIT, SPEED, make_plan
from vit_jax.cost.estimate import RunCost
from vit_jax.cost.published import Published, PublishedCost
from vit_jax.cost.report_text import plan_text, published_text, run_length, run_text


def test_a_plan_that_fits():
  assert plan_text(make_plan(FIT), 'configs/vit_h14.py').splitlines() == [
    'configs/vit_h14.py: ViT-H/14, 632,045,800 parameters, batch_size=4096 remat=full scan=True '
    'accumulate=2 moment_dtype=float32',
    'v5e:16x16: 256 x TPU v5 lite as a mesh of 256 (data) x 1 (fsdp). parallel=pmap splits the '
    'data in the same way.',
    '',
    'The step fits: it takes 9.00 of 16.00 GiB on each chip (compiled in 92 s).',
    '  parameters           1.000 GiB',
    '  moments              2.000 GiB',
    '  rest of the state    0.000 GiB',
    '  batch                0.000 GiB',
    '  padding              0.000 GiB',
    '  temporaries          6.000 GiB',
    '  outputs              0.000 GiB',
    '  code                 0.000 GiB',
    '',
    'collectives per step    channels   times   received by each chip',
    '  all-reduce                   4      35           0.500 GiB',
    '',
    'A step computes 3.000e+15 FLOPs, plus 33% that remat recomputes.',
    'Each chip computes 1.200e+11 vector operations besides matrix products.',
    'Each chip moves 40.0 GB to and from its memory.',
    'A step takes at least: compute 0.080 s, vector 0.020 s, memory 0.050 s, interconnect 0.010 s, '
    'network 0.000 s. The bound is compute, which allows an MFU of 75%.',
    'The compiler estimates 2.00e+08 cycles for the kernels of each chip.',
    'The compute bound leaves out the products of attention that are computed twice: q k^T by '
    'attention by head, the default on TPUs, and others by remat=dots.',
    '',
    'The run takes 1,000 steps of 4,096 images (1 epochs of 4,096,000 images):',
    '  at that bound, which no run reaches: 0.080 s per step, 0.00 days, 6 chip-hours',
    '  at an MFU of 40%: 0.150 s per step, 0.00 days, 11 chip-hours',
  ]


def test_a_chip_of_two_devices():
  """All figures are those of a device, except that hours are paid for chips."""
  plan = make_plan(FIT, topology='tpu7x:4x8x8', kind='TPU7x', devices=512, mesh=(512, 1))
  text = plan_text(plan, 'c.py')
  assert 'tpu7x:4x8x8: 256 x TPU7x of 2 devices each, as a mesh of 512 (data) x 1 (fsdp).' in text
  assert 'it takes 9.00 of 16.00 GiB on each device (compiled in 92 s).' in text
  assert 'received by each device\n' in text and 'Each device moves 40.0 GB' in text
  assert '0.080 s per step, 0.00 days, 6 chip-hours' in text
  misfit = plan_text(make_plan(MISFIT, devices=512), 'c.py')
  assert 'it needs 20.1GiB of 15.8GiB on each device.' in misfit


def test_a_plan_that_does_not_fit():
  assert plan_text(make_plan(MISFIT), 'configs/vit_h14.py').splitlines()[3:] == [
    'The step does not fit: it needs 20.1GiB of 15.8GiB on each chip.',
    'Parameters and moments take 3.00 GiB of it.',
    '',
    'Change one or more of these:',
    '  --config.remat=dots: less',
  ]


def test_says_what_the_bounds_leave_out():
  speed = dataclasses.replace(SPEED, unknown_loops=2, custom_kernels=24, mfu=0.9)
  fit = dataclasses.replace(FIT, speed=speed)
  v4 = plan_text(make_plan(fit, topology='2xv4:2x2x1', kind='TPU v4'), 'c.py')
  assert '2 loops of unknown length are counted as one turn each.\n' in v4
  assert '\nThe vector operations of 24 custom kernels are not counted.\n' in v4
  assert (
    'The network between slices of TPU v4 is left out, because its speed is not published.\n' in v4
  )
  assert v4.endswith('\n  An MFU of 90% is out of reach of this program.')
  h100 = plan_text(make_plan(FIT, topology='h100:8', kind='H100 80GB HBM3'), 'c.py')
  assert 'Without a GPU, the compiler cannot time kernels to choose among them.' in h100
  assert 'custom kernels' not in h100 and 'computed twice' not in h100
  assert 'loops of unknown length' not in h100 and 'The network between' not in h100
  dots = plan_text(make_plan(FIT, topology='h100:8', kind='H100 80GB HBM3', remat='dots'), 'c.py')
  assert 'The compute bound leaves out the products of attention that are computed twice' in dots
  assert 'computed twice' not in plan_text(make_plan(FIT, model='BiT-R50x1'), 'c.py')


COST = RunCost(
  model='ViT-L/16',
  image_size=224,
  batch_size=4096,
  accumulate=2,
  dtype='bfloat16',
  remat='dots',
  dataset='jft_300m',
  images=4_096_000,
  classes=18_291,
  steps=2000,
  epochs=2.0,
  parameters=304_000_000,
  state_bytes=3 * 2**30,
  forward_flops=100 * 10**9,
  train_flops=300 * 10**9,
  total_flops=5 * 10**18,
  activation_bytes=2**20,
  mfu=0.4,
  device_days={'TPU v3': 100.0, 'H200': 6.25},
  left_out=['evaluations', 'elementwise work'],
)


def test_the_cost_of_a_run():
  assert run_text(COST, 'configs/vit_l16.py:jft').splitlines() == [
    'configs/vit_l16.py:jft: ViT-L/16, 224 px, jft_300m',
    '  parameters     304,000,000 (3.00 GiB with the optimizer state)',
    '  forward pass   100.00 GFLOPs per image',
    '  training       300.00 GFLOPs per image',
    '  activations    1.0 MiB per image, kept for the backward pass (bfloat16, remat=dots)',
    '                 2.0 GiB for 2,048 images at a time (accumulate=2), over all devices',
    '  run            2,000 steps of 4,096 images (2 epochs of 4,096,000 images)',
    '                 5 exaFLOPs, without evaluations and elementwise work',
    '',
    'device-days at an MFU of 40% (a device of TPU v2, v3 and 7x is one core)',
    '  TPU v3                    100',
    '  H200                     6.25',
  ]


def test_many_devices_are_in_two_columns():
  cost = dataclasses.replace(COST, device_days={f'device {i}': float(i) for i in range(7)})
  assert run_text(cost, 'c.py').splitlines()[-4:] == [
    '  device 0                    0        device 4                    4',
    '  device 1                    1        device 5                    5',
    '  device 2                    2        device 6                    6',
    '  device 3                    3',
  ]


def test_the_papers_models():
  cost = dataclasses.replace(COST, total_flops=5 * 10**21)
  rows = [
    PublishedCost(Published('ViT-L/16', 'jft', 2, 4000, 2895), cost),
    PublishedCost(Published('ViT-L/16', 'jft', 2), cost),
  ]
  text = published_text(rows, ['TPU v3'], 0.4)
  assert text.splitlines()[2:6] == [
    '',
    'JFT-300M, 4,096,000 images',
    'ViT-L/16        2   304.0   100.0   300.0     1.0   5,000.0  4,000  1.250        100  2,895 '
    '32.5%',
    'ViT-L/16        2   304.0   100.0   300.0     1.0   5,000.0      -      -        100      -'
    '     -',
  ]
  assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
  'arguments, text',
  [
    ((93_841, 4096, 1_281_167), '93,841 steps of 4,096 images (300 epochs of 1,281,167 images)'),
    ((10, 64, 1280), '10 steps of 64 images (0.5 epochs of 1,280 images)'),
  ],
)
def test_run_length(arguments, text):
  assert run_length(*arguments) == text
