"""The speed of a step agrees with arithmetic."""

from types import SimpleNamespace

import pytest

from tests.helpers.paths import FILES
from vit_jax.cost.step_speed import CollectiveTotal, published_limits, step_speed
from vit_jax.cost.topology import Topology
from vit_jax.parallel.devices import DEVICES

TEXT = (FILES / 'tpu_program.hlo').read_text()
TOPOLOGY = Topology('v5e', (4, 4))
V5E = DEVICES['TPU v5 lite']


def speed(remat):
  devices = [SimpleNamespace(coords=[i // 4, i % 4, 0]) for i in range(16)]
  return step_speed(TEXT, TOPOLOGY, devices, flops=16 * V5E.flops, remat=remat, mfu=0.5)


def test_a_step_bound_by_compute():
  result = speed('none')
  assert (result.roofline.compute, result.roofline.bound) == (1.0, 'compute')
  assert (result.mfu_bound, result.seconds_at_mfu) == (1.0, 2.0)
  gathered = 64 * 32 * 2 * 3 // 4
  assert result.collectives['all-gather'] == CollectiveTotal(1, 3, 3 * gathered)
  assert list(result.collectives) == [
    'all-gather',
    'all-reduce',
    'reduce-scatter',
    'between slices',
  ]


def test_full_remat_computes_a_third_more():
  result = speed('full')
  assert result.computed_flops / result.flops == pytest.approx(4 / 3)
  assert (result.roofline.compute, result.mfu_bound) == pytest.approx((4 / 3, 3 / 4))
  assert result.seconds_at_mfu == 2.0


def test_published_limits():
  device, interconnect = published_limits(Topology('h100', (8,)))
  assert (device.flops, interconnect.network) == (989e12, 50e9)
