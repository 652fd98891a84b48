"""The least time that a step can take on given devices: what it computes, and what it moves."""

from collections.abc import Sequence
import math
from typing import NamedTuple

import jax

from vit_jax.cost.hlo import BETWEEN_SLICES, Collective
from vit_jax.cost.topology import Topology
from vit_jax.parallel.devices import Device, Interconnect


class Roofline(NamedTuple):
  """Seconds a step, each as if nothing else took time; the step takes at least the longest."""

  compute: float  # the products, at the peak in bfloat16
  memory: float  # what the kernels read and write in a device's memory
  interconnect: float  # the collectives, over the links between the chips of a slice
  network: float  # the collectives between slices

  @property
  def seconds(self) -> float:
    """A step's, at least."""
    return max(self)

  @property
  def bound(self) -> str:
    """The term that takes longest."""
    return max(self._fields, key=lambda field: getattr(self, field))


def roofline(
  *,
  flops: float,
  memory_bytes: float,
  collectives: Sequence[Collective],
  topology: Topology,
  devices: Sequence[jax.Device],
  device: Device,
  wires: Interconnect,
) -> Roofline:
  """The terms of a step.

  Args:
    flops: a step's, over all devices.
    memory_bytes: that a device reads and writes a step.
    collectives: a step's.
    topology: of the devices.
    devices: in the order of the mesh, to which the groups of `collectives` refer.
    device, wires: the limits of one.
  """
  ici = network = 0.0
  for c in collectives:
    if c.kind == BETWEEN_SLICES:
      network += c.times * c.moved / (wires.network or math.inf)
      continue
    group = [devices[i] for i in c.group]
    slices = len({topology.slice_of(d) for d in group})
    inside = len(group) // slices
    # In a slice first; then every chip exchanges its part of the result with the other slices.
    whole = c.times * c.moved * len(group) / max(1, len(group) - 1)
    if inside > 1:
      ici += whole * (inside - 1) / inside / (wires.link * topology.links(group))
    if slices > 1 and wires.network:
      network += whole / inside * (slices - 1) / slices / wires.network
  return Roofline(
    flops / (len(devices) * device.flops), memory_bytes / device.bandwidth, ici, network
  )
