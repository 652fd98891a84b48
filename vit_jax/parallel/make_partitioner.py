"""Choose a partitioner by its name."""

import jax

from vit_jax.errors import unknown
from vit_jax.parallel.compiler import compiler_options
from vit_jax.parallel.mesh import MeshPartitioner
from vit_jax.parallel.partitioner import Partitioner
from vit_jax.parallel.pmap import PmapPartitioner


def make_partitioner(
  parallel: str,
  batch_size: int,
  accumulate: int = 1,
  mesh: tuple[int, int] = (0, 1),
  dtype: str = 'float32',
) -> Partitioner:
  """Make the partitioner of a run.

  Args:
    parallel: 'pmap' (every device holds the state) or 'mesh' (the state is split too).
    batch_size: number of images in a global batch.
    accumulate: number of passes that a batch is split into.
    mesh: number of devices along (data, fsdp), for 'mesh' only (see `MeshPartitioner`).
    dtype: type of the computation, for which the compiler has options.

  Raises:
    InputError: `parallel` is unknown, or the sizes do not fit the devices.
  """
  options = compiler_options(jax.default_backend(), dtype)
  if parallel == 'pmap':
    return PmapPartitioner(batch_size, accumulate, options=options)
  if parallel == 'mesh':
    return MeshPartitioner(batch_size, accumulate, mesh, options=options)
  raise unknown('parallel', parallel, ('pmap', 'mesh'))
