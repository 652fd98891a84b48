"""The roofline agrees with values computed by hand."""

from types import SimpleNamespace

import pytest

from vit_jax.cost.collectives import Collective
from vit_jax.cost.roofline import Roofline, roofline
from vit_jax.cost.topology import Topology
from vit_jax.parallel.devices import Device, Interconnect

V5E = Topology('v5e', (16, 16))
DEVICE, INTERCONNECT = Device(200e12, 16e9, 800e9, 5e12), Interconnect(50e9, 5e9)


def terms(collectives, topology=V5E, interconnect=INTERCONNECT, devices=None, vector=1e11):
  if devices is None:
    devices = [SimpleNamespace(coords=[i // 16, i % 16, 0]) for i in range(256)]
  return roofline(
    flops=256 * 20e12,
    vector_operations=vector,
    memory_bytes=40e9,
    collectives=collectives,
    topology=topology,
    devices=devices,
    device=DEVICE,
    interconnect=interconnect,
  )


def test_compute_vector_and_memory():
  limits = terms([])
  assert limits == Roofline(0.1, 0.02, 0.05, 0, 0)
  assert (limits.seconds, limits.bound) == (0.1, 'compute')
  limits = terms([], vector=1e12)
  assert limits == Roofline(0.1, 0.2, 0.05, 0, 0)
  assert (limits.seconds, limits.bound) == (0.2, 'vector')


def test_collectives_run_over_the_links_of_their_axes():
  ring = Collective('all-gather', 10**9, 3, tuple(range(16)))
  assert terms([ring]).interconnect == pytest.approx(3 * 1e9 / (2 * 50e9))
  everywhere = Collective('all-reduce', 10**9, 1, tuple(range(256)))
  assert terms([everywhere, everywhere]).interconnect == pytest.approx(2 * 1e9 / (4 * 50e9))
  assert terms([Collective('all-gather', 40 * 10**9, 1, (0, 1))]) == Roofline(
    0.1, 0.02, 0.05, pytest.approx(0.8), 0
  )
  assert terms([Collective('all-gather', 40 * 10**9, 1, (0, 1))]).bound == 'interconnect'


def test_between_slices_every_chip_sends_its_part():
  """In two slices of 4 chips, a sum of 8 MB has 4 parts, which cross the network and return."""
  devices = [SimpleNamespace(coords=[i % 2, i // 2 % 2, 0], slice_index=i // 4) for i in range(8)]
  topology = Topology('v5e', (2, 2), 2)
  total = Collective('all-reduce', 2 * 8_000_000 * 7 // 8, 1, tuple(range(8)))
  limits = terms([total], topology, devices=devices)
  assert limits.interconnect == pytest.approx(2 * 8e6 * 3 / 4 / (2 * 50e9))
  assert limits.network == pytest.approx(2 * 2e6 * 1 / 2 / 5e9)
  across = Collective('all-reduce', 1_000_000, 1, (0, 4))
  assert terms([across], topology, devices=devices)[3:] == (0, pytest.approx(1e6 / 5e9))
  assert terms([across], topology, Interconnect(50e9, None), devices).network == 0
  between = Collective('between slices', 1_000_000, 3, ())
  assert terms([between], topology, devices=devices).network == pytest.approx(3e6 / 5e9)


def test_devices_of_a_chip_share_its_links():
  """Devices 2i and 2i + 1 are chip i of a tpu7x. Each of two slices is a square of four chips."""
  devices = [
    SimpleNamespace(coords=[i // 2 % 2, i // 4 % 2, 0], slice_index=i // 8) for i in range(16)
  ]
  topology, limits = Topology('tpu7x', (2, 2, 1), 2), Interconnect(100e9, 10e9, 600e9)
  seconds = lambda *group: terms(
    [Collective('all-gather', 8_000_000 * (len(group) - 1) // len(group), 1, group)],
    topology,
    limits,
    devices,
  )
  # All devices of a slice: each chip receives 3/4 of 8 MB over its two links.
  assert seconds(*range(8)).interconnect == pytest.approx(8e6 * 3 / 4 / (2 * 100e9))
  # One device of each chip: the others gather at the same time, so each has half of the links.
  assert seconds(0, 2, 4, 6).interconnect == pytest.approx(8e6 * 3 / 4 / (2 * 50e9))
  # The devices of one chip: the half that a device lacks.
  assert seconds(4, 5).interconnect == pytest.approx(4e6 / 600e9)
  # The first devices of two slices: half of the chip's share of the network.
  assert seconds(0, 8)[3:] == (0, pytest.approx(4e6 / 5e9))
