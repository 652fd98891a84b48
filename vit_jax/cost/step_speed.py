"""Bound the time of a compiled train step by what it computes and what it moves."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax

from vit_jax.cost.collectives import KINDS, Collective
from vit_jax.cost.estimated_cycles import count_estimated_cycles
from vit_jax.cost.roofline import Roofline, roofline
from vit_jax.cost.topology import Topology
from vit_jax.cost.traffic import count_traffic
from vit_jax.cost.vector_work import count_vector_work
from vit_jax.parallel.devices import Device, Interconnect, find_device, find_interconnect


@dataclasses.dataclass(frozen=True)
class CollectiveTotal:
  """All collectives of one kind in a step."""

  channels: int  # number of different collectives
  times: int  # how often they run, all together
  bytes: int  # bytes that each device receives


@dataclasses.dataclass(frozen=True)
class StepSpeed:
  """The work of a step, the data that it moves, and the least time that both take."""

  collectives: dict[str, CollectiveTotal]  # by kind
  memory_traffic: int  # bytes that each device reads from and writes to its memory
  unknown_loops: int  # loops of unknown length, each counted as one turn
  vector_operations: float  # of each device, on 32-bit elements: arithmetic besides matrix products
  custom_kernels: int  # runs of kernels whose vector operations are not known
  estimated_cycles: int  # of each device's kernels, by the TPU compiler; 0 if it does not say
  flops: float  # of the model
  computed_flops: float  # with the blocks that remat='full' recomputes
  roofline: Roofline
  mfu: float  # fraction of the peak rate that `seconds_at_mfu` assumes
  mfu_bound: float  # the highest fraction that the roofline allows
  seconds_at_mfu: float

  def to_json(self) -> dict[str, Any]:
    """Return the fields as JSON values."""
    return dataclasses.asdict(self) | {
      'roofline': self.roofline._asdict(),
      'seconds': self.roofline.seconds,
      'bound': self.roofline.bound,
    }


def step_speed(
  program: str,
  topology: Topology,
  devices: Sequence[jax.Device],
  *,
  flops: float,
  remat: str,
  mfu: float,
) -> StepSpeed:
  """Bound the time of a step.

  Args:
    program: the text of the compiled program.
    topology: the topology of the devices.
    devices: in the order of the mesh.
    flops: operations of the model in a step.
    remat: value of config.remat.
    mfu: the fraction of the peak rate for `seconds_at_mfu`.
  """
  device, interconnect = published_limits(topology)
  traffic = count_traffic(program, len(devices))
  vector_work = count_vector_work(program)
  # remat='full' runs the forward pass of the blocks twice, which adds a third. The report says that
  # what remat='dots' and attention by head compute again is left out.
  computed_flops = flops * 4 / 3 if remat == 'full' else flops
  limits = roofline(
    flops=computed_flops,
    vector_operations=vector_work.operations,
    memory_bytes=traffic.memory_bytes,
    collectives=traffic.collectives,
    topology=topology,
    devices=devices,
    device=device,
    interconnect=interconnect,
  )
  seconds_at_peak = flops / (len(devices) * device.flops)
  return StepSpeed(
    collectives=_totals(traffic.collectives),
    memory_traffic=traffic.memory_bytes,
    unknown_loops=traffic.unknown_loops,
    vector_operations=vector_work.operations,
    custom_kernels=vector_work.custom_kernels,
    estimated_cycles=count_estimated_cycles(program),
    flops=flops,
    computed_flops=computed_flops,
    roofline=limits,
    mfu=mfu,
    mfu_bound=seconds_at_peak / limits.seconds,
    seconds_at_mfu=seconds_at_peak / mfu,
  )


def published_limits(topology: Topology) -> tuple[Device, Interconnect]:
  """Return the published limits of one device of a topology."""
  device, interconnect = find_device(topology.kind), find_interconnect(topology.kind)
  assert device and interconnect, f'no published limits of {topology.kind}'
  return device, interconnect


def _totals(collectives: Sequence[Collective]) -> dict[str, CollectiveTotal]:
  totals = {}
  for kind in KINDS:
    if same := [x for x in collectives if x.kind == kind]:
      times = sum(x.times for x in same)
      totals[kind] = CollectiveTotal(len(same), times, sum(x.times * x.bytes_moved for x in same))
  return totals
