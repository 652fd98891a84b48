"""Plan a run on devices that are not attached: whether it fits, and how long it takes at least."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
from ml_collections import ConfigDict

from vit_jax.config.checks import check_config
from vit_jax.config.dtype import settle_dtype
from vit_jax.config.length import count_steps
from vit_jax.cost.advice import advise
from vit_jax.cost.compile_step import OutOfMemory, compile_step
from vit_jax.cost.dataset_size import dataset_size
from vit_jax.cost.memory import DeviceMemory, StateBytes, state_bytes
from vit_jax.cost.step_speed import StepSpeed, published_limits, step_speed
from vit_jax.cost.topology import describe_devices, parse_topology
from vit_jax.models.flops import train_flops
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.training.setup import make_training

_CONFIG_FIELDS = ('model', 'batch_size', 'parallel', 'remat', 'scan', 'accumulate', 'moment_dtype')


@dataclasses.dataclass(frozen=True)
class Fit:
  """The outcome for a step that fits in device memory."""

  compile_seconds: float
  memory: DeviceMemory
  speed: StepSpeed

  def to_json(self) -> dict[str, Any]:
    """Return the fields as JSON values."""
    return {
      'fits': True,
      'compile_seconds': self.compile_seconds,
      'memory': self.memory._asdict() | {'total': self.memory.total},
      **self.speed.to_json(),
    }


@dataclasses.dataclass(frozen=True)
class Misfit:
  """The outcome for a step that does not fit in device memory."""

  why: str  # the compiler's message, shortened
  state: StateBytes
  advice: list[str]  # what to change, the best first

  def to_json(self) -> dict[str, Any]:
    """Return the fields as JSON values."""
    memory = {'parameters': self.state.parameters, 'moments': self.state.moments}
    return {'fits': False, 'why': self.why, 'memory': memory, 'advice': self.advice}


@dataclasses.dataclass(frozen=True)
class Plan:
  """The memory and the time that a run needs on a topology."""

  model: str  # this and the next six are fields of the config
  batch_size: int
  parallel: str
  remat: str
  scan: bool
  accumulate: int
  moment_dtype: str
  topology: str  # its name, such as 'v5e:16x16'
  chips: int
  devices: int  # as JAX counts them: two for each chip of TPU7x
  kind: str  # as JAX names the devices
  steps: int
  images: int  # in the training split
  mesh: tuple[int, ...]  # devices along (data, fsdp)
  available: float  # bytes of memory of each device
  parameters: int  # number of parameters
  outcome: Fit | Misfit

  @property
  def fits(self) -> bool:
    """True if the step fits in device memory."""
    return isinstance(self.outcome, Fit)

  def to_json(self) -> dict[str, Any]:
    """Return the fields as JSON values."""
    values = {name: value for name, value in vars(self).items() if name != 'outcome'}
    return values | {'mesh': list(self.mesh)} | self.outcome.to_json()


def plan_run(
  config: ConfigDict,
  topology_name: str,
  *,
  num_images: int | None = None,
  mfu: float = 0.4,
  notify: Callable[[str], None] | None = None,
) -> Plan:
  """Compile the train step of a config for a topology and report what the run needs.

  Args:
    config: the fields of `vit_jax.config.fields.default_config`.
    topology_name: such as 'v5e:16x16', see `parse_topology`.
    num_images: overrides the number of training images. Defaults to that of the dataset.
    mfu: the fraction of the peak rate for the second estimate of the time.
    notify: called with a message before compiling, which can take minutes.

  Raises:
    InputError: a field of the config, the dataset or the topology is wrong.
  """
  c = config
  check_config(c)
  topology = parse_topology(topology_name)
  images, classes = dataset_size(c, num_images)
  steps = count_steps(c, images)
  jax.config.update('jax_platforms', 'cpu')  # this process needs no accelerator
  devices = describe_devices(topology)
  settle_dtype(c, devices[0].platform, kind=topology.kind)
  mesh = c.mesh if c.parallel == 'mesh' else (0, 1)
  partitioner = MeshPartitioner(c.batch_size, c.accumulate, mesh, devices)
  training = make_training(c, classes, steps)
  state = training.shapes()
  available = published_limits(topology)[0].memory
  if notify:
    notify(_compiling(topology.num_chips, c.scan))
  mesh_shape = partitioner.mesh.devices.shape
  try:
    compiled, memory, seconds = compile_step(
      partitioner,
      training.step,
      state,
      image_size=c.image_size,
      batch_size=c.batch_size,
      available=available,
      compiler_options=topology.compiler_options,
    )
  except OutOfMemory as e:
    needed = state_bytes(partitioner.with_shardings(state))
    advice = advise(c, mesh_shape, needed.parameters + needed.moments, available)
    outcome = Misfit(str(e), needed, advice)
  else:
    speed = step_speed(
      compiled.as_text() or '',
      topology,
      list(partitioner.mesh.devices.flat),
      flops=train_flops(training.model) * c.batch_size,
      remat=c.remat,
      mfu=mfu,
    )
    outcome = Fit(seconds, memory, speed)
  return Plan(
    **{field: c[field] for field in _CONFIG_FIELDS},
    topology=topology_name,
    chips=topology.num_chips,
    devices=topology.num_devices,
    kind=topology.kind,
    steps=steps,
    images=images,
    mesh=mesh_shape,
    available=available,
    parameters=sum(x.size for x in jax.tree.leaves(state.params)),
    outcome=outcome,
  )


def _compiling(chips: int, scan: bool) -> str:
  message = f'Compiling the step for {chips} chips.'
  if not scan:
    message += (
      ' This is much faster with --config.scan=True, which compiles one block instead of all.'
    )
  return message
