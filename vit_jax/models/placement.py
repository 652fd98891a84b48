"""Choose what depends on the devices that a program is traced for: sharding, layout, kernels."""

import jax
from jax.experimental.layout import Layout, with_layout_constraint


def target_platform() -> str:
  """Return the platform that the current function is traced for, such as 'cpu' or 'tpu'.

  It is that of the current mesh, whose devices need not be attached, or of JAX's default device.
  """
  if device := jax.sharding.get_abstract_mesh().abstract_device:
    return device.platform
  return getattr(_default_device(), 'platform', None) or jax.default_backend()


def nvidia_generation() -> int:
  """Return the major compute capability of an attached NVIDIA GPU that JAX uses, or 0.

  It is 7 for Volta and Turing, 8 for Ampere, 9 for Hopper.
  """
  # AMD's GPUs have names here, such as 'gfx90a'.
  capability = getattr(jax.devices()[0], 'compute_capability', '')
  major, point, _ = capability.partition('.')
  return int(major) if point else 0


def shard_batch(x: jax.Array) -> jax.Array:
  """Split the leading axis of x over all devices of the current mesh, if there is one.

  Without this, the compiler may gather activations on a large mesh instead of parameters.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.manual_axes:
    return x
  return jax.lax.with_sharding_constraint(x, jax.sharding.PartitionSpec(mesh.axis_names))


def row_major(x: jax.Array) -> jax.Array:
  """Lay out x in row-major order, on GPUs."""
  if target_platform() != 'gpu':
    return x
  return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def _default_device() -> jax.Device | str | None:
  """Return what jax.default_device is set to."""
  return getattr(jax.config, 'jax_default_device', None)
