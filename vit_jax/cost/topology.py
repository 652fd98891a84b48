"""Slices of TPUs and nodes of GPUs by their words, 'v5e:16x16' and 'h100:8', and their devices.

To compile for them without having them: nothing can be run on these devices.
"""

from collections.abc import Sequence
import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

import jax

from vit_jax.cost.cuda_target import COMPILER_OPTIONS, GPUS, describe_gpus
from vit_jax.errors import InputError

_2D = ((2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_3D = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
# What jax calls the devices; the slices there are; in whole 4x4x4 cubes, up to so many chips.
_TPUS = {
  'v4': ('TPU v4', _3D, 4096),
  'v5e': ('TPU v5 lite', _2D, 0),
  'v5p': ('TPU v5', _3D, 6144),
  'v6e': ('TPU v6 lite', _2D, 0),
}
_GPUS_PER_NODE = (1, 2, 4, 8)


class Topology(NamedTuple):
  """One or more equal slices of TPUs, or nodes of GPUs; a chip is one device."""

  name: str  # 'v5e', 'h100'
  shape: tuple[int, ...]  # chips along the axes of a slice; of a node their number
  num_slices: int = 1

  @property
  def kind(self) -> str:
    """What jax calls the devices."""
    return _TPUS[self.name][0] if self.name in _TPUS else GPUS[self.name].kind

  @property
  def num_chips(self) -> int:
    """Of all slices."""
    return self.num_slices * math.prod(self.shape)

  @property
  def compiler_options(self) -> dict[str, Any]:
    """For jax.stages.Lowered.compile."""
    return COMPILER_OPTIONS if self.name in GPUS else {}

  @property
  def rings(self) -> tuple[bool, ...]:
    """Whether the chips along each axis are joined to a ring: a side of 16, or whole cubes."""
    if len(self.shape) == 2:
      return tuple(n == 16 for n in self.shape)
    return (all(n % 4 == 0 for n in self.shape),) * len(self.shape)

  def slice_of(self, device: jax.Device) -> int:
    """The slice or node that a device is in."""
    return device.process_index if self.name in GPUS else getattr(device, 'slice_index', 0) or 0

  def links(self, group: Sequence[jax.Device]) -> int:
    """Links into the worst-placed chip over which a collective of these devices can run.

    Counted are the axes along which the devices lie: two links of a ring that is used whole,
    one at the end of a row. GPUs of a node have one link, to the switch.
    """
    if self.name in GPUS:
      return 1
    total = 0
    for axis, (n, ring) in enumerate(zip(self.shape, self.rings)):
      used = len({device.coords[axis] for device in group})
      total += 0 if used == 1 else 2 if ring and used == n and n > 2 else 1
    return total


def parse_topology(word: str) -> Topology:
  """'v5e:16x16', '2xv5e:16x16', 'h100:8' -> Topology.

  Raises:
    InputError: there is no such thing; says what there is.
  """
  match = re.fullmatch(r'(?:([1-9]\d*)x)?([a-z]\w*):(\d+(?:x\d+)*)', word)
  if not match or match[2] not in {*_TPUS, *GPUS}:
    raise InputError(
      f'--topology={word} is not known; there are {", ".join([*_TPUS, *GPUS])}: '
      'v5e:16x16 is a slice of 256 chips, v5p:4x4x8 one of 128, 2xv5e:16x16 two '
      'slices, h100:8 a node of 8 GPUs'
    )
  name, shape = match[2], tuple(int(n) for n in match[3].split('x'))
  if name in GPUS:
    known, most = [(n,) for n in _GPUS_PER_NODE], 0
  else:
    _, known, most = _TPUS[name]
  cubes = (
    most
    and len(shape) == 3
    and not any(n % 4 for n in shape)
    and list(shape) == sorted(shape)
    and 0 < math.prod(shape) <= most
  )
  if shape not in known and not cubes:
    there_are = ', '.join(':'.join((name, 'x'.join(map(str, s)))) for s in known)
    if most:
      there_are += f', and {name}:AxBxC of multiples of 4, A <= B <= C, up to {most} chips'
    raise InputError(
      f'--topology={word} is no {"node" if name in GPUS else "slice"} of {name}; '
      f'there are {there_are}'
    )
  return Topology(name, shape, int(match[1] or 1))


def describe_devices(topology: Topology) -> list[jax.Device]:
  """The devices of a topology, to lower and compile for.

  Raises:
    InputError: the compiler is not installed.
  """
  if topology.name in GPUS:
    return describe_gpus(topology.name, topology.shape[0], topology.num_slices)
  if importlib.util.find_spec('libtpu') is None:
    raise InputError("the TPU compiler is not installed: pip install 'vit_jax[aot]'")
  # No machine to ask about, others may compile at the same time, and nothing to report at start.
  for name, value in (
    ('TPU_SKIP_MDS_QUERY', '1'),
    ('ALLOW_MULTIPLE_LIBTPU_LOAD', '1'),
    ('TPU_WORKER_HOSTNAMES', 'localhost'),
    ('TPU_MIN_LOG_LEVEL', '3'),
    ('TPU_ACCELERATOR_TYPE', 'v5litepod-4'),
  ):
    os.environ.setdefault(name, value)
  from jax.experimental import topologies

  options = {}
  if topology.name == 'v4':
    options['chip_config_name'] = 'megacore'  # both cores of a chip as one device
  if topology.num_slices > 1:
    options['num_slices'] = topology.num_slices
  word = f'{topology.name}:{"x".join(map(str, topology.shape))}'
  return topologies.get_topology_desc(platform='tpu', topology_name=word, **options).devices
