"""Bound the time of a step from below by what it computes and what it moves.

The matrix units, the vector units, the memory and the links work at the same time, so each of them
is a bound of its own, as if the others took no time.
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

import jax

from vit_jax.cost.collectives import BETWEEN_SLICES, Collective
from vit_jax.cost.topology import Topology
from vit_jax.parallel.devices import Device, Interconnect


class Roofline(NamedTuple):
  """Seconds per step for each limit, as if nothing else took time."""

  compute: float  # matrix products, at the peak rate in bfloat16
  vector: float  # all other arithmetic, see cost/vector_work.py
  memory: float  # reads and writes of the kernels in device memory
  interconnect: float  # collectives between the devices of a slice
  network: float  # collectives between slices

  @property
  def seconds(self) -> float:
    """The lower bound of a step's time."""
    return max(self)

  @property
  def bound(self) -> str:
    """The name of the limit that takes longest."""
    return max(self._fields, key=lambda field: getattr(self, field))


def roofline(
  *,
  flops: float,
  vector_operations: float,
  memory_bytes: float,
  collectives: Sequence[Collective],
  topology: Topology,
  devices: Sequence[jax.Device],
  device: Device,
  interconnect: Interconnect,
) -> Roofline:
  """Return the lower bounds of the time of a step.

  Args:
    flops: operations of matrix products per step, on all devices together.
    vector_operations: other operations per step, on each device.
    memory_bytes: bytes that each device reads and writes per step.
    collectives: the collectives of a step.
    topology: the topology of the devices.
    devices: in the order of the mesh. The groups of `collectives` are positions in it.
    device: the limits of one device.
    interconnect: the limits of its links.
  """
  seconds = [_collective_seconds(c, topology, devices, interconnect) for c in collectives]
  return Roofline(
    compute=flops / (len(devices) * device.flops),
    vector=vector_operations / device.vector,
    memory=memory_bytes / device.bandwidth,
    interconnect=sum((inside for inside, _ in seconds), 0.0),
    network=sum((between for _, between in seconds), 0.0),
  )


def _collective_seconds(
  collective: Collective,
  topology: Topology,
  devices: Sequence[jax.Device],
  interconnect: Interconnect,
) -> tuple[float, float]:
  """Return the seconds per step that a collective takes inside slices and between them."""
  # Where a chip has several devices, they share its links and its network.
  devices_per_chip = topology.devices_per_chip
  network = (interconnect.network or math.inf) / devices_per_chip  # inf: not published, left out
  if collective.kind == BETWEEN_SLICES:
    return 0.0, collective.times * collective.bytes_moved / network
  group = [devices[i] for i in collective.group]
  slices = len({topology.slice_of(d) for d in group})
  members, chips = len(group) // slices, topology.count_chips(group) // slices  # of each slice
  # Each slice sums its chips first. Then every device exchanges its part with the other slices.
  total = collective.times * collective.bytes_moved * len(group) / max(1, len(group) - 1)
  inside = between = 0.0
  if chips > 1:
    # The other devices of these chips run the same collective in a group of their own.
    link = interconnect.link * members / chips / devices_per_chip
    inside = total * (chips - 1) / chips / (link * topology.links(group))
  elif members > 1:
    inside = total * (members - 1) / members / (interconnect.inside or math.inf)
  if slices > 1:
    between = total / members * (slices - 1) / slices / network
  return inside, between
