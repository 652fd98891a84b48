"""Describe TPU slices and GPU nodes that are not attached, by names like 'v5e:16x16' and 'h100:8'.

They are targets for the compiler. Nothing can run on them.
"""

from collections.abc import Sequence
from importlib.metadata import version
import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

import jax

from vit_jax.cost.cuda_target import COMPILER_OPTIONS, GPUS, describe_gpus
from vit_jax.errors import InputError


class _Tpu(NamedTuple):
  kind: str  # as JAX names the devices
  slices: tuple[tuple[int, ...], ...]  # the small slices that exist
  max_chips: int  # of slices made of whole 4x4x4 cubes; 0 if there are none
  devices_per_chip: int = 1


_2D = ((2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_3D = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
_TPUS = {
  'v4': _Tpu('TPU v4', _3D, 4096),
  'v5e': _Tpu('TPU v5 lite', _2D, 0),
  'v5p': _Tpu('TPU v5', _3D, 6144),
  'v6e': _Tpu('TPU v6 lite', _2D, 0),
  'tpu7x': _Tpu('TPU7x', _3D, 9216, devices_per_chip=2),
}
_GPUS_PER_NODE = (1, 2, 4, 8)


class Topology(NamedTuple):
  """One or more equal TPU slices or GPU nodes. A GPU counts as a chip."""

  name: str  # 'v5e', 'h100'
  shape: tuple[int, ...]  # chips along the axes of a slice, or (GPUs per node,)
  num_slices: int = 1

  @property
  def kind(self) -> str:
    """The name that JAX gives the devices."""
    return _TPUS[self.name].kind if self.name in _TPUS else GPUS[self.name].kind

  @property
  def num_chips(self) -> int:
    """The number of chips in all slices."""
    return self.num_slices * math.prod(self.shape)

  @property
  def devices_per_chip(self) -> int:
    """The number of devices that JAX sees in a chip: two in TPU7x, which has two dies, else one."""
    return _TPUS[self.name].devices_per_chip if self.name in _TPUS else 1

  @property
  def num_devices(self) -> int:
    """The number of devices in all slices."""
    return self.num_chips * self.devices_per_chip

  @property
  def compiler_options(self) -> dict[str, Any]:
    """The options for jax.stages.Lowered.compile."""
    return COMPILER_OPTIONS if self.name in GPUS else {}

  @property
  def rings(self) -> tuple[bool, ...]:
    """For each axis of a TPU slice, True if its chips form a ring: 16 chips, or whole cubes."""
    if len(self.shape) == 2:
      return tuple(n == 16 for n in self.shape)
    return (all(n % 4 == 0 for n in self.shape),) * len(self.shape)

  def slice_of(self, device: jax.Device) -> int:
    """Return the index of the slice or node that a device is in."""
    return device.process_index if self.name in GPUS else getattr(device, 'slice_index', 0) or 0

  def count_chips(self, group: Sequence[jax.Device]) -> int:
    """Return how many chips a group of devices lies on."""
    if self.devices_per_chip == 1:
      return len(group)
    return len({(self.slice_of(device), *device.coords) for device in group})

  def links(self, group: Sequence[jax.Device]) -> int:
    """Return how many links into the worst-placed chip a collective of these devices can use.

    These are the links along the axes on which the devices lie: two if the group covers a whole
    ring, one at the end of a row. The GPUs of a node have one link, to the switch.
    """
    if self.name in GPUS:
      return 1
    total = 0
    for axis, (n, ring) in enumerate(zip(self.shape, self.rings)):
      used = len({device.coords[axis] for device in group})
      total += 0 if used == 1 else 2 if ring and used == n and n > 2 else 1
    return total


def parse_topology(word: str) -> Topology:
  """Parse 'v5e:16x16', '2xv5e:16x16' or 'h100:8'.

  Raises:
    InputError: there is no such slice or node. The message lists those that exist.
  """
  match = re.fullmatch(r'(?:([1-9]\d*)x)?([a-z]\w*):(\d+(?:x\d+)*)', word)
  if not match or match[2] not in {*_TPUS, *GPUS}:
    raise InputError(
      f'Unknown topology {word!r}. Give a kind of device ({", ".join([*_TPUS, *GPUS])}) and a '
      'shape: v5e:16x16 is a slice of 256 chips, v5p:4x4x8 a slice of 128, 2xv5e:16x16 two '
      'slices, and h100:8 a node of 8 GPUs.'
    )
  name, shape = match[2], tuple(int(n) for n in match[3].split('x'))
  if not _exists(name, shape):
    unit = 'node' if name in GPUS else 'slice'
    raise InputError(f'{name} has no {unit} {word!r}. Available: {_available(name)}.')
  return Topology(name, shape, int(match[1] or 1))


def _small_shapes(name: str) -> list[tuple[int, ...]]:
  return [(n,) for n in _GPUS_PER_NODE] if name in GPUS else list(_TPUS[name].slices)


def _exists(name: str, shape: tuple[int, ...]) -> bool:
  if shape in _small_shapes(name):
    return True
  return (
    name in _TPUS
    and len(shape) == 3
    and not any(n % 4 for n in shape)
    and list(shape) == sorted(shape)
    and 0 < math.prod(shape) <= _TPUS[name].max_chips
  )


def _available(name: str) -> str:
  shapes = ', '.join(f'{name}:{_join(shape)}' for shape in _small_shapes(name))
  if name in _TPUS and _TPUS[name].max_chips:
    shapes += (
      f', and {name}:AxBxC with multiples of 4, A <= B <= C, up to {_TPUS[name].max_chips} chips'
    )
  return shapes


def _join(shape: tuple[int, ...]) -> str:
  return 'x'.join(map(str, shape))


def describe_devices(topology: Topology) -> list[jax.Device]:
  """Return the devices of a topology, to lower and compile for.

  Raises:
    InputError: the compiler is not installed, or too old to know the devices.
  """
  if topology.name in GPUS:
    return describe_gpus(topology.name, topology.shape[0], topology.num_slices)
  if importlib.util.find_spec('libtpu') is None:
    raise InputError(
      "The TPU compiler is not installed. Install it with `pip install 'vit_jax[aot]'`."
    )
  # libtpu must not look for a machine, must not log at the start, and must allow other processes to
  # compile at the same time.
  for name, value in (
    ('TPU_SKIP_MDS_QUERY', '1'),
    ('ALLOW_MULTIPLE_LIBTPU_LOAD', '1'),
    ('TPU_WORKER_HOSTNAMES', 'localhost'),
    ('TPU_MIN_LOG_LEVEL', '3'),
    ('TPU_ACCELERATOR_TYPE', 'v5litepod-4'),
  ):
    os.environ.setdefault(name, value)
  from jax.experimental import topologies

  options: dict[str, Any] = {}
  if topology.name == 'v4':
    options['chip_config_name'] = 'megacore'  # both cores of a chip are one device
  if topology.num_slices > 1:
    options['num_slices'] = topology.num_slices
  word = f'{topology.name}:{_join(topology.shape)}'
  try:
    return topologies.get_topology_desc(platform='tpu', topology_name=word, **options).devices
  except jax.errors.JaxRuntimeError as e:
    if 'Invalid TPU external name' not in str(e):
      raise
    raise InputError(
      f'The TPU compiler does not know {topology.name}, because libtpu {version("libtpu")} is too '
      "old. Install a newer one with `pip install -U 'vit_jax[aot]'`."
    ) from e
