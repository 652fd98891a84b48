"""Estimate what a run costs without compiling it: parameters, operations, memory, days."""

from collections.abc import Iterable
import dataclasses
from typing import Any

import jax
from ml_collections import ConfigDict

from vit_jax.config.checks import check_config
from vit_jax.config.dtype import settle_dtype
from vit_jax.config.length import count_steps
from vit_jax.cost.activations import activation_bytes
from vit_jax.cost.dataset_size import dataset_size
from vit_jax.cost.memory import tree_bytes
from vit_jax.errors import unknown
from vit_jax.models.flops import forward_flops, train_flops
from vit_jax.parallel.devices import DEVICES, Device, find_device
from vit_jax.training.setup import make_training

_DAY = 24 * 3600


_CONFIG_FIELDS = ('model', 'image_size', 'batch_size', 'accumulate', 'dtype', 'remat', 'dataset')


@dataclasses.dataclass(frozen=True)
class RunCost:
  """The cost of a run.

  Operations are matrix products and convolutions. A multiply-add counts as 2, and the backward
  pass as two forward passes.
  """

  model: str  # this and the next six are fields of the config
  image_size: int
  batch_size: int
  accumulate: int
  dtype: str
  remat: str
  dataset: str
  images: int  # in the training split
  classes: int
  steps: int
  epochs: float
  parameters: int  # number of parameters
  state_bytes: int  # parameters, optimizer state and averaged parameters
  forward_flops: int  # per image
  train_flops: int  # per image
  total_flops: int  # of all training steps
  activation_bytes: int  # kept of one image for the backward pass
  mfu: float  # fraction of the peak rate that the days assume
  device_days: dict[str, float]  # days on one device, for each device asked for
  left_out: list[str]  # work that the operations do not include

  def to_json(self) -> dict[str, Any]:
    """Return the fields as JSON values."""
    return dataclasses.asdict(self)


def estimate_run(
  config: ConfigDict, device_names: Iterable[str], mfu: float, *, num_images: int | None = None
) -> RunCost:
  """Estimate what the run of a config costs.

  Where the config leaves attention_implementation open, the activations are those of 'plain',
  whatever this machine is.

  Args:
    config: the fields of `vit_jax.config.fields.default_config`.
    device_names: the devices to give the days of, as JAX names them.
    mfu: the fraction of the peak rate that the run is assumed to reach.
    num_images: overrides the number of training images. Defaults to that of the dataset.

  Raises:
    InputError: a field of the config, the dataset or a device is wrong.
  """
  c = config
  check_config(c)
  settle_dtype(c, 'accelerator')
  _settle_attention(c)
  devices = {name: get_device(name) for name in device_names}
  images, classes = dataset_size(c, num_images)
  steps = count_steps(c, images)
  training = make_training(c, classes, steps)
  model, state = training.model, training.shapes()
  total_flops = train_flops(model) * steps * c.batch_size
  return RunCost(
    **{field: c[field] for field in _CONFIG_FIELDS},
    images=images,
    classes=classes,
    steps=steps,
    epochs=steps * c.batch_size / images,
    parameters=sum(x.size for x in jax.tree.leaves(state.params)),
    state_bytes=tree_bytes((state.params, state.opt_state, getattr(state, 'average', ()))),
    forward_flops=forward_flops(model),
    train_flops=train_flops(model),
    total_flops=total_flops,
    activation_bytes=activation_bytes(training.objective, state.params, model.image_size, classes),
    mfu=mfu,
    device_days={name: device_days(total_flops, x, mfu) for name, x in devices.items()},
    left_out=_left_out(c),
  )


def _settle_attention(c: ConfigDict) -> None:
  """Set attention_implementation, in place, if it is left open. The model would ask the machine."""
  if c.attention_implementation is None and not c.model.startswith('BiT-'):
    c.attention_implementation = 'plain'


def _left_out(c: ConfigDict) -> list[str]:
  """Return what a run computes beyond the operations that are counted."""
  work = ['evaluations', 'elementwise work']
  if c.remat != 'none':
    work.append(f'what remat={c.remat!r} recomputes')
  if c.pretext:
    work.append(f'the head of {c.pretext}')
  return work


def get_device(name: str) -> Device:
  """Return the published limits of a device.

  Raises:
    InputError: the device is not known.
  """
  device = find_device(name)
  if device is None:
    raise unknown('device', name, DEVICES)
  return device


def device_days(flops: float, device: Device, mfu: float) -> float:
  """Return how many days one device takes for the operations at a fraction `mfu` of its peak."""
  return flops / (device.flops * mfu) / _DAY


def implied_mfu(flops: float, device: Device, days: float) -> float:
  """Return the fraction of its peak at which one device does the operations in `days` days."""
  return flops / (device.flops * days * _DAY)
