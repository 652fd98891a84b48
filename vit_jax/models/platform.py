"""What a program should look like on the platform that it is traced for."""

import jax
from jax.experimental.layout import Layout, with_layout_constraint


def target_platform() -> str:
  """Return the platform that the current function is traced for, such as 'cpu' or 'tpu'.

  It is that of the current mesh, whose devices need not be attached.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.platform if device else jax.default_backend()


def row_major(x: jax.Array) -> jax.Array:
  """Keep the elements of the last axis of x next to each other in memory, on GPUs."""
  if target_platform() != 'gpu':
    return x
  return with_layout_constraint(x, Layout(tuple(range(x.ndim))))
