"""Data parallelism by jax.pmap, the state replicated: the paper's way."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.parallel.compiler import compiler_options, with_options
from vit_jax.parallel.partitioner import Partitioner


class PmapPartitioner(Partitioner):
  """Data parallelism by jax.pmap: the batch is split, the state is on every device."""

  def __init__(self, batch_size: int, accumulate: int = 1):
    """Raises InputError when `batch_size` does not divide over devices and passes."""
    super().__init__(jax.device_count(), batch_size, accumulate)

  def like(self, abstract: Any) -> Any:
    """The shapes of a state, as a checkpoint is to be read for `put`."""
    return abstract

  def init(self, init: Callable[[], Any]) -> Any:
    """Computes a state where it is to lie."""
    return self.put(jax.jit(init)())

  def put(self, state: Any) -> Any:
    """Puts a state (host arrays or single-device arrays) on every device."""
    # The steps' axis name: with another sharding than theirs the first step would compile twice.
    spread = jax.pmap(lambda s, _: s, axis_name='data', in_axes=(None, 0), out_axes=None)
    return spread(state, np.zeros(jax.local_device_count()))

  def train_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
    """step(state, batch, shard, mean, previous) -> compiled (state, global batch) -> the same."""
    spread = jax.pmap(
      lambda state, batch: step(
        state, batch, jax.lax.axis_index('data'), lambda x: jax.lax.pmean(x, 'data'), self._previous
      ),
      axis_name='data',
      in_axes=(None, 0),
      out_axes=None,
      donate_argnums=0,
    )
    spread = with_options(spread, compiler_options(jax.default_backend()))
    return lambda state, batch: spread(state, self._split(batch))

  def eval_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
    """step(params, batch, total) -> compiled (params, global batch) -> sums."""
    spread = jax.pmap(
      lambda params, batch: step(params, batch, lambda x: jax.lax.psum(x, 'data')),
      axis_name='data',
      in_axes=(None, 0),
      out_axes=None,
    )
    spread = with_options(spread, compiler_options(jax.default_backend()))
    return lambda params, batch: spread(params, self._split(batch))

  def gather_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
    """step(params, batch) -> compiled (params, global batch) -> NumPy arrays of all its rows."""
    gather = lambda x: jax.lax.all_gather(x, 'data', tiled=True)
    spread = jax.pmap(
      lambda params, batch: jax.tree.map(gather, step(params, batch)),
      axis_name='data',
      in_axes=(None, 0),
      out_axes=None,
    )
    spread = with_options(spread, compiler_options(jax.default_backend()))
    return lambda params, batch: jax.device_get(spread(params, self._split(batch)))

  def _previous(self, x):
    """A device's rows -> the row before each in the global batch; before the first, the last."""
    n = self.num_devices
    before = jax.lax.ppermute(x[-1:], 'data', [(i, (i + 1) % n) for i in range(n)])
    return jnp.concatenate([before, x[:-1]])

  def _split(self, batch):
    """This host's share (b, ...) -> (local devices, b / local devices, ...)."""
    local = jax.local_device_count()
    return {k: v.reshape(local, -1, *v.shape[1:]) for k, v in batch.items()}
