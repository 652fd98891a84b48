"""Suggest changes to a config whose train step does not fit in device memory."""

from collections.abc import Sequence

from ml_collections import ConfigDict

_GIB = 2**30


def advise(config: ConfigDict, mesh: Sequence[int], state: int, available: float) -> list[str]:
  """Return what to change in a config that does not fit, the best first, each with its flags.

  Args:
    config: the fields of `vit_jax.config.fields.default_config`.
    mesh: devices along (data, fsdp).
    state: bytes of parameters and moments on each device.
    available: bytes of memory of one device.
  """
  c, (data, fsdp) = config, mesh
  devices, groups = data * fsdp, 1
  while state / groups > available / 8 and data % (2 * groups) == 0:
    groups *= 2
  lines = []
  if groups > 1:
    lines.append(
      f'--config.parallel=mesh --config.mesh={data // groups},{fsdp * groups}: parameters '
      f'and moments take {state / groups / _GIB:.2f} instead of {state / _GIB:.2f} GiB'
    )
  if c.remat == 'none':
    lines.append(
      '--config.remat=dots: the backward pass recomputes everything but products with weights'
    )
  if c.remat != 'full':
    lines.append('--config.remat=full: it recomputes whole blocks, which is a third more work')
  if not c.scan:
    lines.append('--config.scan=True: buffers for one block at a time')
  if c.batch_size % (devices * c.accumulate * 2) == 0:
    images = c.batch_size // devices // c.accumulate
    lines.append(
      f'--config.accumulate={2 * c.accumulate}: passes of {images // 2} instead of {images} images '
      'on each device'
    )
  if c.moment_dtype == 'float32':
    lines.append('--config.moment_dtype=bfloat16: parameters and moments take a sixth less')
  if c.batch_size % (devices * 2) == 0:
    lines.append(f'--config.batch_size={c.batch_size // 2}, which is another recipe')
  return [*lines, 'a larger slice']
